"""A sentence translated while it is spoken: committed text stays, the draft may change; then how late and how calm it was."""

import mezzotint as mz
from mezzotint.live.latency import Step, delays, length_adaptive, normalised_erasure
from mezzotint.live.translate import Live, Translator, Writer

HEARD = [
    "The installation",
    "The installation of the",
    "The installation of the mud",  # misheard, and taken back by the next
    "The installation of the module is simple.",
]


def main() -> None:
    engine = mz.Engine(mz.load("default"), compute="auto")
    translator = Translator(Writer(engine), Live("English", "French", rule="agreement", max_replaced=60))
    steps = []
    for number, source in enumerate(HEARD, 1):
        update = translator.update(source, final=number == len(HEARD))
        print(f"{update.committed}[{update.draft}]  {update.calls} calls, {update.erased} characters taken back")
        steps.append(Step(len(source.split()), update.committed, update.text, update.seconds))
    lag = length_adaptive(delays(steps), len(HEARD[-1].split()))
    print(f"LAAL {lag:.1f} words, erasure {normalised_erasure([step.shown for step in steps]):.2f}")


if __name__ == "__main__":
    main()
