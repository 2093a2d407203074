#!/usr/bin/env bash
# Format, lint, types, layers, tests: in this order, stopping at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
began=$SECONDS
step() {
  echo "== $*"
  "$@"
}
if [ "${MEZZOTINT_FULL:-}" = 1 ]; then # what only the full counts run on
  step $bin/pip install --quiet --constraint constraints.txt --editable '.[dev,ray]' tensorboard
fi
step $bin/ruff format --check --quiet .
step $bin/ruff check --quiet .
step $bin/mypy
step $bin/lint-imports
step $bin/python -m pytest "$@"
echo "all checks passed in $((SECONDS - began)) s"
