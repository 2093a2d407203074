#!/usr/bin/env bash
# Install what a run elsewhere has made: verify BACK, the parts that `adapt_gpu.sh return` wrote, and write the folder OUT.
#
#   runs/collect.sh BACK OUT [--base MODEL]      OUT/adapter for --adapter, OUT/plateau for the next kit, OUT/about
exec bash "$(dirname "$0")/adapt_gpu.sh" collect "$@"
