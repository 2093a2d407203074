"""Transcription of synthetic speech: word error rate before and after repair, and what its errors cost a translation.

    python benchmarks/transcription.py [--count 100] [--tune 30] [--voices en-us,en-gb,en-us+f3] [--ways readings,denoise]
                                       [--model default] [--compute auto] [--translate 10] [--keep FILE]

Sentences are held-out ones of documentation (`tests/live/spoken.py`), said by espeak-ng into a WAV and heard by pocketsphinx.
The weight of the recogniser's score and how sure an overwriting must be are chosen on --tune other sentences, of other sources.
--translate: so many sentences a voice are translated to French, as heard and as they were written; chrF between the two.
--keep: what was heard and judged is kept there, and a second run goes on from it.

Needs espeak-ng (scripts/espeak.sh), MEZZOTINT_DATA and mezzotint[train,speech,translate]. Writes
benchmarks/results/YYYY-MM-DD-transcription.md.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import report

sys.path.append(str(report.ROOT / "tests" / "live"))
import spoken

import mezzotint as mz
from mezzotint.live.latency import quality
from mezzotint.live.mend import WAYS, chosen, denoised, laws
from mezzotint.live.sound import pcm, seconds
from mezzotint.live.sphinx import Sphinx
from mezzotint.live.transcribe import Hypothesis, hypotheses
from mezzotint.live.translate import Live, Translator, Writer

WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 1e9)  # the last: as it was heard
SURES = (0.8, 0.9)
DRAWS = 2000


class Kept:
    """What was measured before, by what it is of, in a file of JSON lines if there is one: a stopped run goes on."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.known = path, dict[str, Any]()
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                key, value = json.loads(line)
                self.known[json.dumps(key)] = value

    def of(self, *key: object, make: Callable[[], Any]) -> Any:
        name = json.dumps(key)
        if name not in self.known:
            self.known[name] = make()
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([key, self.known[name]]) + "\n")
        return self.known[name]


class Heard:
    """A sentence as it was heard: final hypotheses, drafts, seconds of sound and of processor."""

    def __init__(self, text: str, row: dict[str, Any]) -> None:
        self.text, self.drafts, self.length, self.took = text, row["drafts"], row["length"], row["took"]
        self.finals = [
            Hypothesis(one["text"], True, one["start"], one["end"], (), tuple((t, s) for t, s in one["readings"]))
            for one in row["finals"]
        ]
        self.laws: list[list[float]] = []

    def words(self, mend: Callable[[int], str] | None = None) -> list[str]:
        return spoken.words(" ".join(mend(i) if mend else one.text for i, one in enumerate(self.finals)))

    def errors(self, mend: Callable[[int], str] | None = None) -> int:
        return spoken.errors(spoken.words(self.text), self.words(mend))


def hear(transcriber: Sphinx, text: str, voice: str) -> dict[str, Any]:
    data = list(pcm(io.BytesIO(spoken.said(text, voice)), "the speech"))
    began = time.process_time()
    found = list(hypotheses(transcriber, data))
    return {
        "took": time.process_time() - began, "length": seconds(b"".join(data)), "drafts": sum(not one.final for one in found),
        "finals": [asdict(one) | {"words": ()} for one in found if one.final],
    }  # fmt: skip


def judged(engine: mz.Engine, kept: Kept, final: Hypothesis) -> list[float]:
    texts = [text for text, _ in final.readings]
    return kept.of("laws", engine.checkpoint.name, texts, make=lambda: laws(engine, texts))


def rate(found: Sequence[Heard], errors: Sequence[int]) -> float:
    return sum(errors) / sum(len(spoken.words(one.text)) for one in found)


def interval(found: Sequence[Heard], before: Sequence[int], after: Sequence[int]) -> tuple[float, float]:
    """95% of the change in WER, by drawing sentences anew."""
    draw, lengths = random.Random(0), [len(spoken.words(one.text)) for one in found]
    changes = []
    for _ in range(DRAWS):
        picked = draw.choices(range(len(found)), k=len(found))
        changes.append(sum(after[i] - before[i] for i in picked) / sum(lengths[i] for i in picked))
    changes.sort()
    return changes[DRAWS // 40], changes[-DRAWS // 40]


def by_readings(one: Heard, weight: float) -> int:
    return one.errors(lambda i: chosen(one.finals[i], one.laws[i], weight))


def best_reading(one: Heard) -> int:
    """Errors of the best reading there is, of each utterance by itself where there is one."""
    if len(one.finals) != 1:
        return one.errors()
    reference = spoken.words(one.text)
    return min(
        (spoken.errors(reference, spoken.words(text)) for text, _ in one.finals[0].readings), default=one.errors()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--tune", type=int, default=30)
    parser.add_argument("--voices", default=",".join(spoken.VOICES))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--model", default="default")
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--translate", type=int, default=10)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    if spoken.espeak() is None:
        raise SystemExit("espeak-ng is not there; scripts/espeak.sh installs it")
    measured, tuning = spoken.sentences(args.count), spoken.sentences(args.tune, tuned=True)
    if measured is None or tuning is None:
        raise SystemExit(
            "docs-corpus and python-docs-fr are not there; set MEZZOTINT_DATA to the folder that holds them"
        )
    voices, ways = args.voices.split(","), args.ways.split(",")
    kept, transcriber = Kept(args.keep), Sphinx()

    def heard_by(voice: str, texts: Sequence[str]) -> list[Heard]:
        return [
            Heard(text, kept.of("heard", voice, text, make=lambda text=text: hear(transcriber, text, voice)))
            for text in texts
        ]

    tuned = {voice: heard_by(voice, tuning) for voice in voices}
    found = {voice: heard_by(voice, measured) for voice in voices}
    for voice in voices:
        print(f"{voice}: WER {rate(found[voice], [one.errors() for one in found[voice]]):.3f}", flush=True)
    engine = mz.Engine(mz.load(args.model), compute=args.compute)
    every = [one for part in (*tuned.values(), *found.values()) for one in part]
    every_tuned = [one for part in tuned.values() for one in part]
    chosen_settings: dict[str, float] = {}
    after: dict[str, dict[str, list[int]]] = {}
    tables: list[str] = []
    took = dict.fromkeys(ways, 0.0)
    if "readings" in ways:
        began = time.process_time()
        for one in every:
            one.laws = [judged(engine, kept, final) for final in one.finals]
        took["readings"] = (time.process_time() - began) / len(every)
        worth = {w: rate(every_tuned, [by_readings(one, w) for one in every_tuned]) for w in WEIGHTS}
        weight = chosen_settings["readings"] = min(WEIGHTS, key=lambda w: worth[w])
        tables += [
            "",
            "Tuning, weight of the recogniser's score (1e9: as heard):",
            "",
            *report.table(list(worth), [list(worth.values())]),
        ]
        after["readings"] = {v: [by_readings(one, weight) for one in found[v]] for v in voices}
    if "denoise" in ways:
        began = time.process_time()

        def mended(one: Heard, sure: float) -> int:
            texts = [one.finals[i].text for i in range(len(one.finals))]
            made = [
                kept.of("denoised", args.model, sure, text, make=lambda text=text: denoised(engine, text, sure))
                for text in texts
            ]
            return one.errors(lambda i: made[i])

        worth = {s: rate(every_tuned, [mended(one, s) for one in every_tuned]) for s in SURES}
        worth[1.0] = rate(every_tuned, [one.errors() for one in every_tuned])
        sure = chosen_settings["denoise"] = min(worth, key=lambda s: worth[s])
        measured_at = sure if sure < 1 else min(SURES, key=lambda s: worth[s])
        tables += [
            "",
            "Tuning, how sure an overwriting must be (1: as heard):",
            "",
            *report.table(list(worth), [list(worth.values())]),
        ]
        after["denoise"] = {v: [mended(one, measured_at) for one in found[v]] for v in voices}
        took["denoise"] = (time.process_time() - began) / (len(SURES) * len(every_tuned) + args.count * len(voices))
        chosen_settings["denoise"] = measured_at
    rows = []
    for name in (*voices, "all"):
        part = [one for v in voices for one in found[v]] if name == "all" else found[name]
        before = [one.errors() for one in part]
        row: list[object] = [
            name,
            sum(map(bool, before)),
            rate(part, before),
            rate(part, [best_reading(one) for one in part]),
        ]
        for way in ways:
            made = [e for v in voices for e in after[way][v]] if name == "all" else after[way][name]
            low, high = interval(part, before, made)
            row += [rate(part, made), f"{low:+.3f} to {high:+.3f}"]
        rows.append(row)
    length, spent = sum(one.length for one in every), sum(one.took for one in every)
    lines = [
        f"{args.count} held-out sentences, {len(voices)} voices of espeak-ng, WAV at 22,050 Hz; "
        f"settings chosen on {args.tune} others: "
        + ", ".join(f"{way} at {value:g}" for way, value in chosen_settings.items()) + ".",
        f"pocketsphinx: {spent / length:.2f} seconds of processor a second of sound, "
        f"{sum(one.drafts for one in every) / len(every):.1f} drafts a sentence. Repair: "
        + ", ".join(f"{way} {value:.2f} s of processor a sentence" for way, value in took.items()) + ".",
        "",
        *report.table(
            [
                "voice", "sentences with an error", "WER as heard", "best reading",
                *(x for w in ways for x in (f"WER, {w}", "change, 95%")),
            ],
            rows,
        ),
        *tables,
    ]  # fmt: skip
    if args.translate:
        rows = []
        for voice in voices:
            part = found[voice][: args.translate]
            heard = [_french(engine, " ".join(final.text for final in one.finals)) for one in part]
            rows.append([voice, quality(heard, [_french(engine, one.text) for one in part])["chrF"]])
        lines += ["", f"French of what was heard against French of what was written, {args.translate} sentences:", ""]
        lines += report.table(["voice", "chrF"], rows)
    report.write("transcription", "Transcription of synthetic speech, and its repair", lines)


def _french(engine: mz.Engine, text: str) -> str:
    return Translator(Writer(engine), Live()).update(text, final=True).committed if text else ""


if __name__ == "__main__":
    main()
