"""The reverse process: canvases, policies, the loop, lossless decoding, traces."""
