#!/usr/bin/env bash
# Bundle the playground's libraries anew: npm and esbuild in a scratch folder, three ES modules out, with licences and checksums.
# The page itself has no build step; run this only to change a version.
set -euo pipefail
out=$(cd "$(dirname "$0")/.." && pwd)/mezzotint/server/page/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm init -y >/dev/null
npm install --no-audit --no-fund \
  esbuild@0.28.2 preact@11.2.0 htm@3.1.1 markdown-it@15.0.3 dompurify@3.4.18 @codemirror/state@6.7.6 \
  @codemirror/view@6.43.15 @codemirror/commands@6.11.1 @codemirror/language@6.13.1 @codemirror/merge@6.12.3 \
  @codemirror/lang-html@6.4.12 @codemirror/lang-python@6.2.1 >/dev/null
cat >preact.entry.js <<'JS'
export { h, render, Fragment } from "preact";
export { useState, useEffect, useRef, useMemo, useCallback, useLayoutEffect } from "preact/hooks";
import { h } from "preact";
import htm from "htm";
export const html = htm.bind(h);
JS
cat >markdown.entry.js <<'JS'
export { default as MarkdownIt } from "markdown-it";
export { default as DOMPurify } from "dompurify";
JS
cat >codemirror.entry.js <<'JS'
export { EditorState, StateField, StateEffect, Compartment } from "@codemirror/state";
export { EditorView, Decoration, keymap, lineNumbers, drawSelection, WidgetType } from "@codemirror/view";
export { defaultKeymap, history, historyKeymap } from "@codemirror/commands";
export { syntaxHighlighting, HighlightStyle, defaultHighlightStyle, bracketMatching } from "@codemirror/language";
export { MergeView, unifiedMergeView } from "@codemirror/merge";
export { html } from "@codemirror/lang-html";
export { python } from "@codemirror/lang-python";
JS
mkdir -p "$out"
for name in preact markdown codemirror; do
  npx esbuild "$name.entry.js" --bundle --minify --format=esm --target=es2022 --legal-comments=none --outfile="$out/$name.js" --log-level=warning
done
{
  echo "Licences of what is bundled in this folder (scripts/vendor.sh makes it)."
  for folder in node_modules/* node_modules/@codemirror/* node_modules/@lezer/* node_modules/@marijn/*; do
    name=${folder#node_modules/}
    case $name in @*/*) ;; @*) continue ;; esac
    case $name in esbuild | @esbuild* | @types*) continue ;; esac
    [ -f "$folder/package.json" ] || continue
    echo
    echo "=== $name $(node -p "const p=require('./$folder/package.json'); p.version+', '+p.license")"
    cat "$folder"/LICEN[SC]E* 2>/dev/null || true
  done
} >"$out/LICENSES.txt"
cd "$out" && sha256sum LICENSES.txt codemirror.js markdown.js preact.js >SHA256SUMS
