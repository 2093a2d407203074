"""Checks: what a preset tests when its edit is done. Each says what is wrong, or nothing. They read text and change none."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import regex

from mezzotint.edit.hunks import Edit

Check = Callable[[Edit, Mapping[str, str]], str | None]  # the edit, the preset's values -> the problem
SENTENCE = regex.compile(r"[^\n]+?(?:[.!?]+(?=\s|$)|$)", regex.MULTILINE)  # "Node.js" does not end one
OTHERS = 4  # words beside the keywords that make a sentence


def length(edit: Edit, values: Mapping[str, str]) -> str | None:
    """The text is at least half and at most twice as long as it was."""
    share = len(edit.after) / max(len(edit.before), 1)
    return None if 0.5 <= share <= 2 else f"the text has {share:.0%} of its old length"


def keywords(edit: Edit, values: Mapping[str, str]) -> str | None:
    """Every keyword of `keywords` (separated by commas) stands in a sentence, which is not a list of them."""
    missing = absent(edit.after, values.get("keywords", ""))
    return f"not in a sentence: {', '.join(missing)}" if missing else None


def absent(text: str, words: str) -> list[str]:
    """Keywords (separated by commas) that stand in no sentence of a text, in small letters."""
    wanted = [word.strip().casefold() for word in words.split(",") if word.strip()]
    sentences = [match[0].casefold() for match in SENTENCE.finditer(text)]
    missing = []
    for word in wanted:
        pattern = regex.compile(rf"(?<!\w){regex.escape(word)}(?!\w)")
        if not any(pattern.search(sentence) and _is_sentence(sentence, wanted) for sentence in sentences):
            missing.append(word)
    return missing


def _is_sentence(sentence: str, wanted: Sequence[str]) -> bool:
    for word in wanted:
        sentence = sentence.replace(word, " ")
    return len(regex.findall(r"\w+", sentence)) >= OTHERS


def parses(edit: Edit, values: Mapping[str, str]) -> str | None:
    """What was Python or JSON still is."""
    for name, read in _READERS.items():
        if read(edit.before) is None and edit.before.strip():
            problem = read(edit.after)
            return None if problem is None else f"it is no {name} any more: {problem}"
    return None


def speaks(edit: Edit, values: Mapping[str, str]) -> str | None:
    """The text is of `language`, if that is Python or JSON, which are the ones that can be read here."""
    name = values.get("language", "").strip()
    read = {known.casefold(): read for known, read in _READERS.items()}.get(name.casefold())
    problem = read(edit.after) if read else None
    return None if problem is None else f"it is not {name}: {problem}"


def names(edit: Edit, values: Mapping[str, str]) -> str | None:
    """What Python defines at its outermost level is still defined there."""
    lost = [name for name in _defined(edit.before) if name not in _defined(edit.after)]
    return f"no longer defined: {', '.join(lost)}" if lost else None


def _python(text: str) -> str | None:
    try:
        _tree(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return None


def _json(text: str) -> str | None:
    try:
        json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        return str(error)
    return None


def _tree(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in the user's code is not our concern
        return ast.parse(text.removeprefix("\ufeff"))


def _defined(text: str) -> list[str]:
    if _python(text) is not None:
        return []
    kinds: Any = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in _tree(text).body if isinstance(node, kinds)]


_READERS: dict[str, Callable[[str], str | None]] = {"JSON": _json, "Python": _python}
CHECKS: dict[str, Check] = {
    "length": length, "keywords": keywords, "parses": parses, "speaks": speaks, "names": names
}  # fmt: skip


def problems(edit: Edit, checks: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """What the named checks find, each under its name. An edit that changes nothing has no problems."""
    if edit.after == edit.before:
        return []
    found = ((name, CHECKS[name](edit, values)) for name in checks)
    return [f"{name}: {problem}" for name, problem in found if problem is not None]
