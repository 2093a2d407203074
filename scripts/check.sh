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
  PYTHONWARNINGS=ignore step $bin/pip install --quiet --constraint constraints.txt --editable '.[dev,ray,web,llama,hub]' tensorboard
  bash scripts/chromium.sh || true # then the page's tests are skipped
  bash scripts/espeak.sh || true   # then those of speech are
  bash scripts/neovim.sh || true   # and Neovim's
  bash scripts/vscode.sh || true   # and VS Code's
fi
bash scripts/bubblewrap.sh
step $bin/ruff format --check --quiet .
step $bin/ruff check --quiet .
step $bin/mypy
step $bin/lint-imports
if [ "${MEZZOTINT_FULL:-}" = 1 ]; then
  step $bin/python -m pytest "$@" # alone: some of it is timed
  step bash scripts/clients.sh
  step "${MEZZOTINT_CLIENTS:-$HOME/.cache/mezzotint-clients}/python/bin/python" -m pytest \
    -W ignore::pytest.PytestUnraisableExceptionWarning \
    tests/server/test_clients.py tests/server/test_client_formats.py tests/server/test_contract.py
else
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two workers with two threads each would wait for one another
  step $bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
fi
echo "all checks passed in $((SECONDS - began)) s"
