"""Repair of a transcript: the model reads what was heard, and doubts it.

    readings   the recogniser's own other texts, judged by the model's causal law beside its score: nothing is made up
    denoise    the text as a canvas: tokens that the model is sure are wrong are overwritten (`edit/repair.py`)

    choice = argmax over readings of  log p(text) + weight * score        (rescoring of an N-best list)

Neither is on by itself: benchmarks/transcription.py measures what each is worth, and docs/log.md has what is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mezzotint.edit.passages import start_id
from mezzotint.edit.repair import can_repair, repair
from mezzotint.engine.engine import Engine
from mezzotint.live.transcribe import Hypothesis, Mend
from mezzotint.sampler.verify import pad

WAYS = ("readings", "denoise")
WEIGHT = 0.05  # of the recogniser's score; chosen on 29 sentences (docs/log.md)
SURE = 0.9  # p of another token


def mender(engine: Engine, way: str = "readings", weight: float = WEIGHT, sure: float = SURE) -> Mend:
    """What repairs final hypotheses. Raises ValueError for an unknown way, one that this checkpoint has not learnt, and
    values out of range."""
    if way not in WAYS:
        raise ValueError(f"repair is {way!r}; allowed: {', '.join(WAYS)}")
    if not weight >= 0:
        raise ValueError(f"weight is {weight}; it must be at least 0")
    if not 0 <= sure <= 1:
        raise ValueError(f"sure is {sure}; it must lie between 0 and 1")
    engine.must_read()
    if way == "denoise":
        if not can_repair(engine):
            raise ValueError(
                f"{engine.checkpoint.name} has not learnt to doubt visible tokens; repair by readings works with any model"
            )
        return lambda heard: denoised(engine, heard.text, sure)
    if engine.denoiser.reader is not None:
        raise ValueError(f"{engine.checkpoint.name} reads no text causally, which judging readings needs")
    return lambda heard: chosen(heard, laws(engine, [text for text, _ in heard.readings]), weight)


def sentence(text: str) -> str:
    """As it would be written: recognisers know no capital and no full stop."""
    return text[:1].upper() + text[1:] + "."


@torch.inference_mode()
def laws(engine: Engine, texts: Sequence[str]) -> list[float]:
    """log p of each text as a sentence, in nats, all in one call. Raises ValueError for one beyond the model's context."""
    if not texts:
        return []
    before = start_id(engine)
    rows = [[before, *engine.tokenizer.encode(sentence(text))] for text in texts]
    tokens, counts = pad(rows)
    longest, most = tokens.shape[1], engine.denoiser.config.max_length
    if longest > most:
        raise ValueError(f"an utterance has {longest} tokens; this model reads {most} at a time")
    cache = engine.denoiser.new_cache(len(rows), longest)
    said = engine.denoiser.read(tokens, counts, cache, every=True).logits[:, :-1].float().log_softmax(-1)
    each = said.gather(-1, tokens[:, 1:, None])[..., 0]
    real = torch.arange(1, longest) < counts[:, None]
    return torch.where(real, each, 0.0).sum(-1).tolist()


def chosen(heard: Hypothesis, nats: Sequence[float], weight: float) -> str:
    """The reading that law and recogniser together find likeliest; the text itself without others, or where none is better."""
    if not nats:
        return heard.text
    worth = {text: law + weight * score for (text, score), law in zip(heard.readings, nats, strict=True)}
    best = max(worth, key=lambda text: worth[text])
    return best if worth[best] > worth[heard.text] else heard.text


def denoised(engine: Engine, text: str, sure: float) -> str:
    """The text with what was overwritten; as it was heard where nothing is. Raises ValueError for one that is too long."""
    if not text:
        return text
    given = sentence(text)
    made = repair(engine, given, sure).after
    return text if made == given else made
