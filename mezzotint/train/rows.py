"""A user's own rows: JSON lines of chats, prompts with completions, or edits; every bad row is named by its line.

    {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}   each answer is learnt
    {"prompt": ..., "completion": ...}                          plain text, no chat template
    {"input": ..., "output": ..., "instruction": ...}           an edit; without instruction a repair

A row becomes examples for `canvases.py`: what is only read, and what canvases hold, the end of the answer included. An edit
becomes two: the output denoised, and the input turned into the output by edit labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.train.canvases import Example
from mezzotint.train.data import held_out, read_rows

SHOWN = 5  # bad rows that one error names
_KINDS = {"messages": ("messages",), "completion": ("prompt", "completion"), "edit": ("input", "output")}


def read_examples(
    path: str | Path, tokenizer: Tokenizer, length: int, share: float = 0.1
) -> tuple[list[Example], list[Example]]:
    """Examples to learn from, and those of a held-out `share` of the rows (at least one row of two).

    length: most tokens of an example. Raises ValueError naming the lines of all bad rows (the first few of them), for an
    empty file and for one row alone, OSError.
    """
    rows: list[tuple[str, list[Example]]] = []
    bad: list[str] = []
    for number, row in enumerate(read_rows(path), 1):
        try:
            rows.append((repr(row), list(examples_of(row, tokenizer, length))))
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if bad:
        more = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise ValueError(f"{path} has {len(bad)} bad rows: {'; '.join(bad[:SHOWN])}{more}")
    if len(rows) < 2:
        raise ValueError(f"{path} has {len(rows)} rows; at least 2 are needed, one of them to measure on")
    kept = [held_out(text, share) for text, _ in rows]
    if all(kept) or not any(kept):
        kept = [index == len(rows) - 1 for index in range(len(rows))]
    learn, measure = (
        [e for (_, some), k in zip(rows, kept, strict=True) if k is held for e in some] for held in (False, True)
    )
    return learn, measure


def examples_of(row: Mapping[str, Any], tokenizer: Tokenizer, length: int) -> Iterator[Example]:
    """The examples of one row. Raises ValueError that says what is wrong with it."""
    kind = next((kind for kind, keys in _KINDS.items() if all(key in row for key in keys)), None)
    if kind is None:
        raise ValueError(
            f"has {', '.join(sorted(row)) or 'nothing'}; expected messages, prompt and completion, or input and output"
        )
    if kind == "messages":
        yield from _chat(row["messages"], tokenizer, length)
    elif kind == "completion":
        texts = [_text(row, key) for key in ("prompt", "completion")]
        yield _sized(tokenizer.encode(texts[0]), texts[1], tokenizer, length)
    else:
        before, after = _text(row, "input"), _text(row, "output")
        ask = _text(row, "instruction") if row.get("instruction") else "Fix the errors."
        content = f"{ask}\n\n{before}"
        context = (
            tokenizer.encode(f"{content}\n\n")
            if tokenizer.chat_template is None
            else tokenizer.chat([{"role": "user", "content": content}])
        )
        whole = _sized(context, after, tokenizer, length)
        yield whole
        yield Example(whole.context, whole.text, draft=tokenizer.encode(before))


def _chat(messages: Any, tokenizer: Tokenizer, length: int) -> Iterator[Example]:
    if tokenizer.chat_template is None:
        raise ValueError("holds messages, but this model has no chat template; give prompt and completion")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError("messages is not a list of objects")
    turns = []
    for m in messages:
        if m.get("role") not in ("system", "user", "assistant"):
            raise ValueError(f"role is {m.get('role')!r}; allowed: system, user, assistant")
        turns.append({"role": m["role"], "content": _text(m, "content")})
    answers = [index for index, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers or answers[0] == 0:
        raise ValueError(
            "messages hold no answer of the assistant to something" if not answers else "the assistant begins"
        )
    for index in answers:
        yield _sized(tokenizer.chat(turns[:index]), turns[index]["content"], tokenizer, length)


def _sized(context: list[int], text: str, tokenizer: Tokenizer, length: int) -> Example:
    ids = tokenizer.encode(text)
    if len(context) + len(ids) + 1 > length:
        raise ValueError(f"has {len(context)} + {len(ids)} + 1 tokens; at most {length} are learnt (--length)")
    return Example(context, ids, ends=True)


def _text(row: Mapping[str, Any], key: str) -> str:
    if not isinstance(value := row.get(key), str) or not value.strip():
        raise ValueError(f"{key} is {value!r:.40}; expected some text")
    return value
