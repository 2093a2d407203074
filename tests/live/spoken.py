"""English speech for tests: held-out sentences of documentation, said by espeak-ng."""

import io
import random
import re
import shutil
import subprocess
import wave

import numpy as np

from mezzotint.recipes.mixture import HOLD_OUT
from mezzotint.train.data import data_folder, held_out, read_rows

VOICES = ("en-us", "en-gb", "en-us+f3")
MEASURED = 0.02  # sources below this share of the hash are measured, those up to HOLD_OUT are for tuning
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n+")
_PLAIN = re.compile(r"[A-Z][A-Za-z',;-]*(?: [A-Za-z'-]+[,;:]?){5,19}[.!?]")


def espeak():
    return shutil.which("espeak-ng")


def words(text):
    """Lower case, no punctuation: what is compared."""
    return re.findall(r"[a-z']+", text.lower().replace("-", " "))


def sentences(count, tuned=False, seed=0):
    """Held-out sentences of the Python and Rust documentation (PSF-2.0; MIT or Apache-2.0), from other sources for tuning.

    Of 6 to 20 words that the recogniser's dictionary has; none occurs in what the default's adapter was trained on of these
    documents. None where the data is not there.
    """
    from pocketsphinx import get_model_path

    folder = data_folder()
    paths = [folder and folder / f"{name}.jsonl.zst" for name in ("docs-corpus", "python-docs-fr")]
    if not all(path and path.is_file() for path in paths):
        return None
    with open(get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as file:
        known = {line.split(maxsplit=1)[0] for line in file}
    found, trained = {}, []
    for path in paths:
        for row in read_rows(path):
            text = (row.get("text") or row["input"]).replace("\u2019", "'")
            if not held_out(str(row["source"]), HOLD_OUT):
                trained.append(" ".join(words(text)))
            elif path == paths[0] and "handbook" not in row["source"]:
                for one in _SENTENCE.split(text):
                    if _PLAIN.fullmatch(one) and not re.search("[a-z][A-Z]|[A-Z]{2}", one):
                        found[one] = held_out(str(row["source"]), MEASURED)
    seen = "\n".join(trained)
    fit = sorted(
        one
        for one, early in found.items()
        if early != tuned and all(word in known for word in words(one)) and " ".join(words(one)) not in seen
    )
    assert len(fit) >= count, f"{len(fit)} sentences fit; {count} are wanted"
    return random.Random(seed).sample(fit, len(fit))[:count]  # fewer are the first of more


def said(text, voice="en-us"):
    """A WAV as espeak-ng makes it (22,050 samples a second), a second of silence around it."""
    made = subprocess.run([espeak(), "-v", voice, "--stdout", text], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(made)) as file:
        rate, frames = file.getframerate(), file.readframes(1 << 30)
    quiet = bytes(2 * (rate // 2))
    return wav(quiet + frames + quiet, rate)


def wav(frames, rate=16_000, channels=1, width=2):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(frames)
    return out.getvalue()


def tone(seconds, rate=16_000, hertz=440.0):
    return (8000 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype("<i2").tobytes()


def errors(reference, heard):
    """Substitutions, deletions and insertions between two lists of words (Levenshtein); over the reference's words: WER."""
    row = list(range(len(heard) + 1))
    for i, a in enumerate(reference, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(heard, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]
