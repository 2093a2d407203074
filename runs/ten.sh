#!/usr/bin/env bash
# The ten benchmarks of the founding table with one model, in all three decoders, and a report. Stopped, it goes on where it was.
#
#   runs/ten.sh [--items N|all] [--max-tokens N] [--model M] [--adapter A] [--decode "ar verified diffusion"]
#               [--compute C] [--batch N] [--draft D] [--draft-length N] [--sets "NAME ..."] [--out DIR] [-- MORE]
#
# Real items are read from the folder that MEZZOTINT_EVALDATA names; where it has none, hand-made rows stand in and are marked. On a CPU a
# seeded sample of 60 items and 512 new tokens is the default; --items all is the full run. MORE goes to every `mezzotint eval`.
# --compute int8 is quicker; that verified is ar's text is promised in float32, and the report lists where it is not, with logit gaps.
# --sets: the ten and three relatives of theirs where nothing is said. --draft: what verified checks; int8 has no drafts of its own
# accord, and a run without any would compare ar with itself.
# ten-stores.tar.xz beside this script holds what the default has answered (int8, --batch 30 --draft-length 2; diffusion without swebench-format):
#   mkdir -p evals/ten && tar xf runs/ten-stores.tar.xz -C evals/ten, then runs/ten.sh --compute int8 --batch 30 --draft-length 2 -- --patience 4 goes on
set -euo pipefail
cd "$(dirname "$0")/.."
items=60 tokens=512 model=default adapter= decoders="ar verified diffusion" out=evals/ten
compute=float32 batch=8 draft=fixed-point length=4 sets="ten bigcodebench-complete swebench-format bbeh-mini"
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
  --draft-length) length=$2 ;;
  --sets) sets=$2 ;;
  --out) out=$2 ;;
  --) shift && break ;;
  *) echo "ten.sh: unknown option $1 (--items, --max-tokens, --model, --adapter, --decode, --compute, --batch, --draft, --draft-length, --sets, --out)" >&2 && exit 2 ;;
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
  # shellcheck disable=SC2086 # one word a set
  $mezzotint eval $sets --fixtures --model "$model" ${adapter:+--adapter "$adapter"} --decode "$decode" \
    --compute "$compute" --batch "$batch" --draft "$draft" --draft-length "$length" --items "$items" --max-tokens "$tokens" --out "$store" "$@"
done
note="commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(sed -n 's/^model name.*: //p' /proc/cpuinfo 2>/dev/null | head -1), $(getconf _NPROCESSORS_ONLN) cores"
$mezzotint eval-report "${stores[@]}" --gaps --model "$model" ${adapter:+--adapter "$adapter"} --compute "$compute" --note "$note" --out "$out/report" --title "The ten benchmarks: $model${adapter:+ with $adapter}"
