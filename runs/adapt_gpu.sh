#!/usr/bin/env bash
# Adapt on a machine that has a GPU, Python, torch and little else. docs/guides/gpu.md is the manual.
#
#   runs/adapt_gpu.sh pack KIT --data EXAMPLES [--adapter LAST] [--part-size MB]     here, in the repository
#   KIT/adapt_gpu.sh run [--minutes M] [KEY=VALUE ...]                               there, all others too
#   KIT/adapt_gpu.sh status [--wait SECONDS] | stop | return BACK [--part-size MB]
#   runs/collect.sh BACK OUT                                                         here again
#
# PYTHON: the interpreter, python3 by default. WORK: where the kit is unpacked and runs, KIT/work by default.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
work=${WORK:-$here/work}
root=$here/..
verb=${1:-help}
[ $# -gt 0 ] && shift

kit() {
  "$python" - <<'EOF'
import sys
from importlib.util import find_spec

missing = [name for name in ("numpy", "rich", "safetensors", "tokenizers", "torch") if find_spec(name) is None]
if missing:
    sys.exit(f"kit: {sys.executable} has no {', '.join(missing)}; name another Python: PYTHON=...")
EOF
  PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} "$python" -m mezzotint.recipes.kit "$@"
}

case $verb in
pack)
  kit pack "$@"
  cp "$here/adapt_gpu.sh" "$root/mezzotint/recipes/parts.py" "$1"
  ;;
collect)
  kit collect "$@"
  ;;
run)
  "$python" "$here/parts.py" join "$here" "$work"
  root=$work/code
  kit run "$work" "$@"
  ;;
status | stop | return)
  root=$work/code
  [ -d "$root" ] || { echo "not started" && exit 12; }
  kit "$verb" "$work" "$@"
  ;;
*)
  sed -n '2,/^set/p' "$0" | grep '^#' | cut -c3-
  exit 2
  ;;
esac
