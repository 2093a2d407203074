#!/usr/bin/env bash
# Generate with drafts of its own canvas, the same plainly, compare; then edit by rescoring. Input comes by environment.
set -euo pipefail
cd "$(dirname "$0")/.."
mezzotint=.venv/bin/mezzotint
verified=$(mktemp) plain=$(mktemp)
trap 'rm -f "$verified" "$plain"' EXIT
began=$SECONDS
tokens=${MAX_TOKENS:-96}

echo "== generate: its own canvas drafts, the causal pass verifies"
printf '%s' "$PROMPT" | $mezzotint generate - --decode verified --max-tokens "$tokens" --summary | tee "$verified"
echo
echo "== the same, one token a call"
printf '%s' "$PROMPT" | $mezzotint generate - --decode ar --max-tokens "$tokens" --summary >"$plain"
if cmp -s "$verified" "$plain"; then echo "verified and ar wrote the same text"; else
  echo "verified and ar differ:"
  diff "$plain" "$verified" || true
fi
echo
echo "== edit: $INSTRUCTION"
printf '%s\n' "$TEXT" | $mezzotint edit - -i "$INSTRUCTION" --diff --summary
echo
echo "the same in your browser, with every step to see: $mezzotint demo"
echo "demo took $((SECONDS - began)) s"
