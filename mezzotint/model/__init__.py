"""The denoiser: one network for every checkpoint."""
