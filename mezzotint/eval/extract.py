"""What an answer says: code out of fences, letters, numbers, boxed values. Pure functions from text to text.

"Let me think. ... \\boxed{\\mathrm{70}}." -> "70"          "Here:\\n```python\\ndef f(): ...\\n```" -> "def f(): ..."
None means that nothing could be extracted.
"""

from __future__ import annotations

import ast
import re

FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n`]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.M | re.S)
PYTHON = {"python", "py", "python3", ""}
NEXT_STATEMENT = re.compile(r"\n(?=class |def |#|if |print|@|```)")


def without_reasoning(text: str) -> str:
    """The answer behind a model's thinking, where that is marked; thinking that never ends leaves nothing."""
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.S)
    if "</think>" in text:
        text = text.rsplit("</think>", 1)[1]
    return text.split("<think>", 1)[0]


def fences(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block; one that is never closed goes to the end."""
    return [(m[1].lower(), m[2].rstrip("\n")) for m in FENCE.finditer(text)]


def python_block(text: str) -> str | None:
    """The first Python fence, else the first without a language, else None."""
    blocks = fences(text)
    named = [code for language, code in blocks if language in PYTHON - {""}]
    plain = [code for language, code in blocks if not language]
    found = named or plain
    return found[0] if found else None


def last_two_fences(text: str) -> str | None:
    """LiveCodeBench's rule: what stands between the last two lines that hold three backticks."""
    lines = text.split("\n")
    marks = [i for i, line in enumerate(lines) if "```" in line]
    return "\n".join(lines[marks[-2] + 1 : marks[-1]]) if len(marks) >= 2 else None


def parses(code: str) -> bool:
    """Is it Python?"""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def defines(code: str, name: str) -> bool:
    """Does the text define a function or class of this name, at any depth?"""
    return re.search(rf"^[ \t]*(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(name)}\b", code, re.M) is not None


def continuation(text: str) -> str:
    """A function's body as a model without chat continues it: up to the next statement at the left margin."""
    return NEXT_STATEMENT.split(text, maxsplit=1)[0]


def longest_code(text: str) -> str:
    """BigCodeBench's rule: the longest run of lines that is Python, fenced or not; the text itself when none is."""
    candidates = [code for _, code in fences(text)] or [text]
    good = [code for code in candidates if parses(code)]
    if good:
        return max(good, key=len)
    lines = candidates[0].split("\n")
    for end in range(len(lines), 0, -1):  # cut inside a statement: take what stands before it
        if parses("\n".join(lines[:end])):
            return "\n".join(lines[:end])
    return candidates[0]


def needed(code: str, entry: str) -> str:
    """Imports, assignments and definitions that `entry` needs, in order; the code itself when it is not Python."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return code
    owner: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            owner[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            owner.update({n.id: node for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)})
    if entry not in owner:
        return code
    todo, kept = [entry], set[int]()
    while todo:
        node = owner[todo.pop()]
        if id(node) in kept:
            continue
        kept.add(id(node))
        todo += [n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in owner]
    lines = code.split("\n")
    parts = []
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom) or id(node) in kept:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n".join(parts)


# -- values ---------------------------------------------------------------------------------------------------------


def boxed(text: str) -> str | None:
    r"""What the last \boxed{...} (or \fbox) holds, braces matched; None without one that is closed."""
    for match in reversed(list(re.finditer(r"\\f?boxed\s*\{", text))):
        depth = 1
        for i in range(match.end(), len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if depth == 0:
                return text[match.end() : i]
    return None


NUMBER = re.compile(r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\$?\.\d+")
UNITS = re.compile(r"\s*(?:degrees?|\^\{?\\?circ\}?|\\%|%|units?|cm|square|dollars?|\\mathrm.*|\\text.*)\s*$")


def last_number(text: str) -> str | None:
    """The last number of a text, without commas and currency."""
    found = NUMBER.findall(text)
    return found[-1].replace(",", "").replace("$", "") if found else None


def bare(value: str) -> str:
    """A LaTeX value without dollar signs, text wrappers, thousands separators, trailing units and full stop."""
    value = value.strip()
    for _ in range(4):
        before = value
        value = value.strip().strip("$").strip().removesuffix(".").strip()
        value = re.sub(r"^\\(?:text|mathrm|textbf|mathbf|boxed|texttt)\s*\{(.*)\}$", r"\1", value, flags=re.S)
        value = value.replace("\\!", "").replace("\\,", "").replace("{,}", ",")
        value = UNITS.sub("", value)
        if value == before:
            break
    return re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", value)


def aime_answer(text: str) -> str | None:
    r"""The last boxed value, else the last integer that stands alone in the last line with text.

    Of a box MathArena's rules hold, so that scores compare: \text with what it holds is dropped, of an equation the right side
    counts, and a number among other words (`70 degrees`, `\textbf{70}`) is not one.
    """
    inside = boxed(text)
    if inside is not None and inside.strip():
        value = re.sub(r"\\text\s*\{.*?\}", "", inside, flags=re.S).split("=")[-1]
        value = re.sub(r"\\(?:mathrm|boxed)\s*\{(.*?)\}", r"\1", value, flags=re.S)
        value = re.sub(r"\\[!,]|\{,\}|\^\{?\\circ\}?|\\?%|\$", "", value).strip().removesuffix(".").strip()
        return re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", value)
    lines = [line for line in text.splitlines() if re.sub(r"[\s$*_`~=\-\\\[\](){}.]", "", line)]
    found = re.findall(r"(?<![\d.,/^\\])-?\d+(?:,\d{3})*(?![\d/^]|\.\d)", lines[-1]) if lines else []
    return found[-1].replace(",", "") if found else None


def aime_integer(value: str) -> int | None:
    """A value from 0 to 999: leading zeros ignored, a zero decimal part and a whole fraction accepted; else None."""
    value = value.strip().lstrip("+")
    fraction = re.fullmatch(r"\\[dt]?frac\{(-?\d{1,9})\}\{(\d{1,9})\}|(-?\d{1,9})/(\d{1,9})", value)
    if fraction:
        over, under = int(fraction[1] or fraction[3]), int(fraction[2] or fraction[4])
        number = over // under if under and over % under == 0 else -1
    elif match := re.fullmatch(r"(-?\d{1,9})(?:\.0*)?", value):
        number = int(match[1])
    else:
        return None
    return number if 0 <= number <= 999 else None


# the word for "answer" where Global MMLU Lite is written, and the letters that stand for A to D there
ANSWER_WORDS = (
    "answer", "antwort", "respuesta", "réponse", "risposta", "resposta", "jawaban", "jibu", "ìdáhùn", "idahun", "答案", "答え",
    "回答", "解答", "정답", "답변", "답", "उत्तर", "উত্তর", "الإجابة", "الجواب", "إجابة", "ateb", "အဖြေ", "përgjigja",
)  # fmt: skip
LETTERS = {
    **{letter: letter for letter in "ABCD"}, **dict(zip("abcdＡＢＣＤ", "ABCDABCD", strict=True)),
    "أ": "A", "ا": "A", "ب": "B", "ج": "C", "د": "D", "অ": "A", "ব": "B", "ড": "C", "ঢ": "D",
    "ক": "A", "খ": "B", "গ": "C", "ঘ": "D",
}  # fmt: skip
_LATIN, _OTHER = (
    "A-Da-dＡ-Ｄ",
    "".join(letter for letter in LETTERS if not letter.isascii() and letter not in "ＡＢＣＤ"),
)
_LETTER = f"[{_LATIN}{_OTHER}]"
_MARKUP = r"[\s*_$`(\[{（]*(?:\\(?:text|mathrm|boxed)\{)?[\s(]*"
ANSWER_EN = re.compile(r"answer\**\s*:\**\s*\$?\(?([A-D])\b", re.I)
ANSWER_ANY = re.compile(
    rf"(?:{'|'.join(map(re.escape, ANSWER_WORDS))})\**\s*(?:[:：]|是|は|为)\**{_MARKUP}"
    rf"(?:([{_LATIN}])(?![A-Za-z0-9])|([{_OTHER}])(?!\w))",
    re.I,
)


def letters_said(text: str, languages: bool = False) -> list[str]:
    """Every letter that follows the word for "answer" and a colon, in order, as A to D."""
    found = [one or other for one, other in ANSWER_ANY.findall(text)] if languages else ANSWER_EN.findall(text)
    return [LETTERS[letter.upper()] for letter in found]


def letter_fallback(text: str) -> str | None:
    """A letter in a box, or alone (in parentheses or not) on the last line."""
    inside = boxed(text)
    if inside is not None and bare(inside).strip("() ").upper() in tuple("ABCD"):
        return bare(inside).strip("() ").upper()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    alone = re.fullmatch(rf"[*_(（]*({_LETTER})[)）.*_:]*", lines[-1]) if lines else None
    alone = alone or (re.search(r"\(([A-D])\)[\s.*]*$", lines[-1]) if lines else None)
    return LETTERS[alone[1].upper()] if alone else None


REFUSALS = ("i'm sorry, but i can't", "i cannot assist", "i can't assist", "i'm unable to help", "i can't help with")


def refuses(text: str) -> bool:
    """Does a text that holds no answer decline to give one?"""
    begin = text.strip().lower().replace("\u2019", "'")[:200]
    return any(phrase in begin for phrase in REFUSALS)
