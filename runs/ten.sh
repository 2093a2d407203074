#!/usr/bin/env bash
# The ten benchmarks of the founding table with one model, in all three decoders, and a report. Stopped, it goes on where it was.
#
#   runs/ten.sh [--items N|all] [--max-tokens N] [--model M] [--adapter A] [--decode "ar verified diffusion"]
#               [--compute C] [--batch N] [--draft D] [--out DIR] [-- MORE]
#
# Real items are read from the folder that MEZZOTINT_EVALDATA names; where it has none, hand-made rows stand in and are marked. On a CPU a
# seeded sample of 60 items and 512 new tokens is the default; --items all is the full run. MORE goes to every `mezzotint eval`.
# --compute int8 takes a third of the time; verified is promised to be ar's text in float32, and the report lists where it is not.
# --draft: what verified checks; int8 has no drafts of its own accord, and a run without any would compare ar with itself.
set -euo pipefail
cd "$(dirname "$0")/.."
items=60 tokens=512 model=default adapter= decoders="ar verified diffusion" out=evals/ten
compute=float32 batch=8 draft=fixed-point
while [ $# -gt 0 ]; do
  case $1 in
  --items) items=$2 ;;
  --max-tokens) tokens=$2 ;;
  --model) model=$2 ;;
  --adapter) adapter=$2 ;;
  --decode) decoders=$2 ;;
  --compute) compute=$2 ;;
  --batch) batch=$2 ;;
  --draft) draft=$2 ;;
  --out) out=$2 ;;
  --) shift && break ;;
  *) echo "ten.sh: unknown option $1 (--items, --max-tokens, --model, --adapter, --decode, --compute, --batch, --draft, --out)" >&2 && exit 2 ;;
  esac
  shift 2
done
mezzotint=${MEZZOTINT:-.venv/bin/mezzotint}
bash scripts/bubblewrap.sh
stores=()
for decode in $decoders; do
  store=$out/$decode
  stores+=("$store")
  echo "== $decode"
  $mezzotint eval ten bigcodebench-complete swebench-format bbeh-mini --fixtures --model "$model" ${adapter:+--adapter "$adapter"} --decode "$decode" \
    --compute "$compute" --batch "$batch" --draft "$draft" --items "$items" --max-tokens "$tokens" --out "$store" "$@"
done
$mezzotint eval-report "${stores[@]}" --gaps --model "$model" ${adapter:+--adapter "$adapter"} --compute "$compute" --out "$out/report" --title "The ten benchmarks: $model${adapter:+ with $adapter}"
