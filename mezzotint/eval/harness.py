"""A checkpoint as a model of lm-eval, EleutherAI's evaluation harness: log-likelihoods, and texts up to a stop.

    python -m mezzotint.eval.harness run --model mezzotint --model_args model=default,compute=int8 --tasks arc_easy

lm-eval must be installed; this module registers the name and then *is* lm-eval's command. Log-likelihoods are those of the
causal pass, whatever `decode` says: a canvas has none that would be comparable. A server of ours needs nothing of this: see
docs/guides/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from mezzotint.checkpoints.load import load
from mezzotint.engine.engine import Engine
from mezzotint.engine.request import Finished, Request, Text
from mezzotint.sampler.verify import pad

TOGETHER = 4096  # positions of one pass: their logits are held at once
Encoded = tuple[Any, list[int], list[int]]


class Mezzotint(TemplateLM):  # type: ignore[misc]  # lm-eval has no types that mypy is shown
    """model, adapter, compute, decode, draft, seed: as on the command line. max_gen_toks: of tasks that do not say."""

    def __init__(
        self, model: str = "default", adapter: str | None = None, compute: str = "float32", decode: str = "ar",
        draft: str = "auto", seed: int = 0, max_gen_toks: int = 256, batch_size: int | str = 8, max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:  # fmt: skip
        """Raises ValueError for what the engine refuses, and for a device that is not the CPU."""
        super().__init__()
        if device not in (None, "cpu"):
            raise ValueError(f"device is {device!r}; this adapter computes on the CPU, leave it out")
        self.engine = Engine(load(model, adapter), compute=compute)
        self.settings = Request("-", decode=decode, draft=draft, seed=seed)  # type: ignore[arg-type]  # checked there
        self.max_gen_toks, self.rows = max_gen_toks, 8 if batch_size == "auto" else int(batch_size)
        self.tokenizer = self.engine.tokenizer
        self._chats: dict[str, list[dict[str, str]]] = {}  # what stood behind a rendered conversation

    # -- text and ids ---------------------------------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_ids[0]

    @property
    def tokenizer_name(self) -> str:
        return self.engine.checkpoint.name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokenizer.chat_template or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        ids = self.tokenizer.chat(chat_history, add_generation_prompt)
        text = self.tokenizer.decode(ids, skip_special=False)
        if add_generation_prompt:
            self._chats[text] = [dict(message) for message in chat_history]
        return text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **more: Any) -> list[int]:
        """Plain text; a conversation that `apply_chat_template` rendered has its markers, and what follows it too."""
        for text, messages in self._chats.items():
            if string.startswith(text):
                return self.tokenizer.chat(messages) + self.tokenizer.encode(string[len(text) :])
        return self.tokenizer.encode(string) if add_special_tokens is False else self.tokenizer.prompt(string)

    # -- what lm-eval asks ------------------------------------------------------------------------------------------

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **more: Any
    ) -> list[tuple[float, bool]]:
        """(summed log-probability of a continuation, is it what the greedy text would be?), in order."""
        longest = self.engine.denoiser.config.max_length
        rows = [([*context, *answer][-longest - 1 :], len(answer)) for _, context, answer in requests]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        for some in self._together([len(ids) for ids, _ in rows]):
            tokens, counts = pad([rows[index][0][:-1] for index in some])
            with torch.inference_mode():
                cache = self.engine.denoiser.new_cache(len(some), tokens.shape[1])
                logits = self.engine.denoiser.read(tokens, counts, cache, every=True).logits
            for row, index in enumerate(some):
                ids, length = rows[index]
                length = min(length, len(ids) - 1)
                law = logits[row, len(ids) - 1 - length : len(ids) - 1].double().log_softmax(-1)
                target = torch.tensor(ids[-length:])
                value = law.gather(-1, target[:, None]).sum()
                found[index] = float(value), bool((law.argmax(-1) == target).all())
        return found

    def _together(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Numbers of rows for one pass, longest first."""
        some: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if some and (len(some) == self.rows or (len(some) + 1) * lengths[some[0]] > TOGETHER):
                yield some
                some = []
            some.append(index)
        if some:
            yield some

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Summed log-probability of whole texts, each token seen once, in windows as long as the context."""
        longest = self.engine.denoiser.config.max_length
        windows, owners = list[Encoded](), list[int]()
        for number, request in enumerate(requests):
            ids = self.tokenizer.encode(request.args[0])
            for window in map(make_disjoint_window, get_rolling_token_windows(ids, self.prefix_token_id, longest, 1)):
                windows.append((None, *window))
                owners.append(number)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += value
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts, cut before the first stop. One whose prompt leaves no room in the context is empty."""
        groups: dict[tuple[int, float], list[tuple[int, Request, list[str]]]] = {}
        texts = [""] * len(requests)
        for number, (context, options) in enumerate(request.args for request in requests):
            until = options.get("until") or []
            stops = [until] if isinstance(until, str) else list(until)
            temperature = float(options.get("temperature") or 0) if options.get("do_sample", True) else 0.0
            known = self._chats.get(context)
            request = replace(
                self.settings, prompt=known or context, raw=known is None, temperature=temperature, max_tokens=1
            )
            try:
                room = self.engine.denoiser.config.max_length - len(self.engine.prompt_ids(request))
            except ValueError:
                continue
            most = min(room, int(options.get("max_gen_toks") or options.get("max_tokens") or self.max_gen_toks))
            if most > 0:
                groups.setdefault((most, temperature), []).append((number, replace(request, max_tokens=most), stops))
        for members in groups.values():
            for begin in range(0, len(members), self.rows):
                some = members[begin : begin + self.rows]
                for (number, _, _), text in zip(
                    some, self._written([m[1] for m in some], [m[2] for m in some]), strict=True
                ):
                    texts[number] = text
        return texts

    def _written(self, requests: Sequence[Request], stops: Sequence[Sequence[str]]) -> list[str]:
        """Rows of one stream; it is closed when the last has met a stop."""
        texts, ended = [""] * len(requests), set[int]()
        with closing(self.engine.stream(requests)) as events:  # type: ignore[type-var]  # it is a generator
            for event in events:
                if isinstance(event, Text):
                    texts[event.row] += event.piece
                    if any(stop in texts[event.row] for stop in stops[event.row] if stop):
                        ended.add(event.row)
                elif isinstance(event, Finished):
                    ended.add(event.row)
                if len(ended) == len(requests):
                    break
        return [_cut(text, some) for text, some in zip(texts, stops, strict=True)]


def _cut(text: str, stops: Sequence[str]) -> str:
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


import_module("lm_eval.models")  # lm-eval's own: it looks for them only while nobody has registered one
register_model("mezzotint")(Mezzotint)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
