#!/usr/bin/env bash
# The server's tests without its pages', structured output, load; other people's clients where scripts/clients.sh put them.
# MEZZOTINT_FULL=1: at full counts, and the clients are installed first.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
clients=${MEZZOTINT_CLIENTS:-$HOME/.cache/mezzotint-clients}/python/bin/python
pages=(--ignore tests/server/test_playground.py --ignore tests/server/test_page.py --ignore tests/server/test_apps.py
  --ignore tests/server/test_escape.py)
"$bin/python" -m pytest tests/server tests/load tests/constraint tests/engine/test_shares.py "${pages[@]}" "$@"
[ "${MEZZOTINT_FULL:-}" != 1 ] || bash scripts/clients.sh
[ -x "$clients" ] || exit 0
# what other people's packages leave open at the end is theirs
"$clients" -m pytest -W ignore::pytest.PytestUnraisableExceptionWarning \
  tests/server/test_clients.py tests/server/test_client_formats.py tests/server/test_contract.py "$@"
