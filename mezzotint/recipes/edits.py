"""Edits whose right answer is known: an instruction, a text before and after, made by a program from a clean text.

    maker(text, draw) -> Edit | None       None where the text has nothing of its kind
    edits(texts, seed)                     some of each kind, the same for the same texts and seed

Every maker has several ways to say what it wants. Edits that ask for a state (sort these lines, call it so) leave a text in
that state as it is: applied to their own result they are the no-op rows, which teach to leave alone what is right.
"""

from __future__ import annotations

import json
import keyword
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

WORD = re.compile(r"[A-Za-z]{3,}")
NAME = re.compile(r"\b[A-Za-z_][A-Za-z0-9_]{2,}\b")
SENTENCE = re.compile(r"[^.!?\n]+[.!?]")
MONTHS, WORDS, NAMES, SMALL = map(str.split, (
    "January February March April May June July August September October November December",
    "alpha answer basket border bridge candle carpet castle circle copper corner cotton couple desert dinner dragon engine "
    "fabric farmer forest garden garlic harbor island jacket kettle ladder lantern letter marble market meadow mirror "
    "needle orange pepper pillow planet pocket rabbit ribbon river saddle shadow silver spring summer temple ticket timber "
    "travel tunnel valley velvet violet wallet window winter yellow",
    "count total index value result items buffer offset status config record parser source target limit width",
    "zero one two three four five six seven eight nine ten eleven twelve",
))  # fmt: skip
MODULES = str.split(
    "argparse ast base64 copy csv enum functools io itertools json logging math os random re shutil sys time typing uuid"
)
KEYS = {  # neighbours on a keyboard
    letter: near
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for letter, near in zip(row, (f"{a}{b}" for a, b in zip(" " + row, row[1:] + " ", strict=False)), strict=True)
}


class Edit(NamedTuple):
    """before becomes after. stable: doing the same to `after` changes nothing."""

    kind: str
    instruction: str
    before: str
    after: str
    stable: bool = True


Maker = Callable[[str, random.Random], Edit | None]
PROSE: dict[str, Maker] = {}
CODE: dict[str, Maker] = {}
MADE: dict[str, Maker] = {}  # these make up the text themselves


def maker(*tables: dict[str, Maker]) -> Callable[[Maker], Maker]:
    """Put a function into tables under its name."""

    def add(function: Maker) -> Maker:
        for table in tables:
            table[function.__name__.strip("_")] = function
        return function

    return add


def say(draw: random.Random, ways: str, **values: object) -> str:
    """One of the ways, separated by "|", filled in; some of them politely, some without a capital or a full stop."""
    text = draw.choice(ways.split("|")).strip().format(**values)
    manner = draw.random()
    if manner < 0.15:
        text = f"Please {text[0].lower()}{text[1:]}"
    elif manner < 0.25:
        text = text[0].lower() + text[1:]
    return text + draw.choice((".", ".", ""))


def _sub(word: str, by: str, text: str, count: int = 0) -> str:
    return re.sub(rf"\b{re.escape(word)}\b", lambda _: by, text, count=count)


def _lower_words(text: str) -> list[str]:
    """Words that stand in the text, and never with a capital: "replace the" would leave open what to do with "The"."""
    return sorted({word for word in WORD.findall(text) if word.islower() and word.title() not in text})


# -- words and letters -------------------------------------------------------------------------------------------------


@maker(PROSE)
def _replace_word(text: str, draw: random.Random) -> Edit | None:
    if not (words := _lower_words(text)):
        return None
    old, new = draw.choice(words), draw.choice(WORDS)
    ask = say(draw, 'Replace "{a}" by "{b}"|Change every "{a}" to "{b}"|Use the word {b} instead of {a}|Write {b} for {a}|'
              'Substitute "{b}" for "{a}" everywhere', a=old, b=new)  # fmt: skip
    return None if old == new else Edit("replace word", ask, text, _sub(old, new, text))


@maker(PROSE)
def _replace_first(text: str, draw: random.Random) -> Edit | None:
    words = [word for word in _lower_words(text) if len(re.findall(rf"\b{word}\b", text)) > 1]
    if not words:
        return None
    old, new = draw.choice(words), draw.choice(WORDS)
    ask = say(draw, 'Replace only the first "{a}" by "{b}"|Change the first {a} to {b} and leave the others|'
              'The first time "{a}" occurs, write "{b}" instead', a=old, b=new)  # fmt: skip
    return Edit("replace first", ask, text, _sub(old, new, text, 1), False)


@maker(PROSE)
def _delete_word(text: str, draw: random.Random) -> Edit | None:
    words = [w for w in _lower_words(text) if len(re.findall(rf"\b{w}\b", text)) == 1 and f" {w} " in text]
    if not words:
        return None
    word = draw.choice(words)
    ask = say(draw, 'Delete the word "{a}"|Remove "{a}"|Take out the word {a}|Leave out "{a}"', a=word)
    return Edit("delete word", ask, text, text.replace(f" {word} ", " "))


@maker(PROSE)
def _insert_word(text: str, draw: random.Random) -> Edit | None:
    words = [w for w in _lower_words(text) if len(re.findall(rf"\b{w}\b", text)) == 1]
    if not words:
        return None
    at, new, after = draw.choice(words), draw.choice(WORDS), draw.random() < 0.5
    ask = say(draw, 'Insert "{b}" {where} "{a}"|Add the word {b} {where} {a}|Put "{b}" directly {where} the word "{a}"',
              a=at, b=new, where="after" if after else "before")  # fmt: skip
    return Edit("insert word", ask, text, _sub(at, f"{at} {new}" if after else f"{new} {at}", text), False)


@maker(PROSE)
def _word_case(text: str, draw: random.Random) -> Edit | None:
    if not (words := _lower_words(text)):
        return None
    word, upper = draw.choice(words), draw.random() < 0.5
    ask = say(draw, "Write {a} in {how}|Put the word {a} in {how}|Make \"{a}\" {how}",
              a=word, how="capital letters" if upper else "title case")  # fmt: skip
    return Edit("word case", ask, text, _sub(word, word.upper() if upper else word.title(), text))


@maker(PROSE)
def _text_case(text: str, draw: random.Random) -> Edit | None:
    if text.isupper() or len(text) > 300:
        return None
    upper = draw.random() < 0.5
    ways = "Write everything in {how} letters|Convert the text to {how} case|Make it all {how} case|Change it to {how} case"
    ask = say(draw, ways, how="upper" if upper else "lower")
    return Edit("text case", ask, text, text.upper() if upper else text.lower())


@maker(PROSE)
def _sentence_case(text: str, draw: random.Random) -> Edit | None:
    spoilt = re.sub(r"(?:(?<=[.!?] )|^)[A-Z]", lambda m: m[0].lower(), text)
    ask = say(draw, "Capitalise the first letter of every sentence|Start each sentence with a capital letter|"
              "Sentences should begin with a capital|Fix the capitalisation")  # fmt: skip
    return None if spoilt == text else Edit("sentence case", ask, spoilt, text)


@maker(PROSE)
def _bold(text: str, draw: random.Random) -> Edit | None:
    words = [w for w in _lower_words(text) if len(re.findall(rf"\b{w}\b", text)) == 1 and f" {w} " in text]
    if not words or "*" in text:
        return None
    word = draw.choice(words)
    ask = say(draw, 'Make the word "{a}" bold|Put {a} in bold (Markdown)|Use Markdown to make "{a}" bold', a=word)
    return Edit("bold", ask, text, _sub(word, f"**{word}**", text), False)


def typo(word: str, draw: random.Random) -> str:
    """The word with one slip: letters swapped, dropped, doubled, or a neighbour on the keyboard. It may come out right."""
    at = draw.randrange(len(word) - 1)
    kind = draw.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    if kind == 2:
        return word[: at + 1] + word[at:]
    near = KEYS.get(word[at].lower(), "").strip() or word[at]
    return word[:at] + draw.choice(near) + word[at + 1 :]


@maker(PROSE)
def _typos(text: str, draw: random.Random) -> Edit | None:
    places = list(re.finditer(r"[a-z]{4,}", text))
    if not places:
        return None
    count = draw.randint(1, max(1, min(4, len(places) // 8)))
    spoilt = text
    for m in sorted(draw.sample(places, min(count, len(places))), key=lambda m: -m.start()):
        spoilt = spoilt[: m.start()] + typo(m[0], draw) + spoilt[m.end() :]
    ask = say(
        draw,
        "Fix the typos|Correct the spelling|Fix the spelling mistakes|Proofread this|Correct any typos|Fix all spelling errors",
    )
    return None if spoilt == text else Edit("typos", ask, spoilt, text)


@maker(PROSE)
def _spaces(text: str, draw: random.Random) -> Edit | None:
    places = [i for i, c in enumerate(text) if c == " " and text[i - 1 : i] not in ("", " ", "\n")]
    if "  " in text or len(places) < 4:
        return None
    chosen = set(draw.sample(places, draw.randint(1, 4)))
    spoilt = "".join(c + " " * draw.randint(1, 2) if i in chosen else c for i, c in enumerate(text))
    ask = say(
        draw, "Remove the extra spaces|Fix the spacing|There should be one space between words|Delete double spaces"
    )
    return Edit("spaces", ask, spoilt, text)


@maker(PROSE)
def _end(text: str, draw: random.Random) -> Edit | None:
    if not text.endswith("."):
        return None
    ask = say(
        draw, "Add the missing full stop|End the text with a full stop|Put a period at the end|Fix the punctuation"
    )
    return Edit("end", ask, text[:-1], text)


# -- sentences ---------------------------------------------------------------------------------------------------------


def _sentences(text: str) -> list[str] | None:
    """Sentences of a text that is nothing but some, each with one space between."""
    found = [s.strip() for s in SENTENCE.findall(text)]
    return found if 2 <= len(found) <= 8 and " ".join(found) == text else None


ORDER = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


@maker(PROSE)
def _delete_sentence(text: str, draw: random.Random) -> Edit | None:
    if not (found := _sentences(text)):
        return None
    at = draw.randrange(len(found))
    which = "last" if at == len(found) - 1 and draw.random() < 0.7 else ORDER[at]
    ask = say(
        draw, "Delete the {a} sentence|Remove the {a} sentence|Leave out the {a} sentence|Cut the {a} sentence", a=which
    )
    return Edit("delete sentence", ask, text, " ".join(found[:at] + found[at + 1 :]), False)


@maker(PROSE)
def _insert_sentence(text: str, draw: random.Random) -> Edit | None:
    if not (found := _sentences(text)):
        return None
    new = draw.choice(("This is only a draft.", "See the notes below.", "It took a long time.", "Nobody expected that.",
                       "Thank you for reading.", "More on that later.", "The rest is easy."))  # fmt: skip
    at = draw.randrange(len(found) + 1)
    where = (
        "at the beginning" if at == 0 else "at the end" if at == len(found) else f"after the {ORDER[at - 1]} sentence"
    )
    ask = say(draw, 'Add the sentence "{b}" {where}|Insert "{b}" {where}|Put "{b}" {where}', b=new, where=where)
    return Edit("insert sentence", ask, text, " ".join([*found[:at], new, *found[at:]]), False)


@maker(PROSE)
def _swap_sentences(text: str, draw: random.Random) -> Edit | None:
    if not (found := _sentences(text)):
        return None
    ask = say(
        draw, "Swap the first two sentences|Exchange the first and the second sentence|Put the second sentence first"
    )
    return Edit("swap sentences", ask, text, " ".join([found[1], found[0], *found[2:]]), False)


@maker(PROSE)
def _split_lines(text: str, draw: random.Random) -> Edit | None:
    if not (found := _sentences(text)):
        return None
    apart = "\n".join(found)
    if draw.random() < 0.5:
        return Edit("one sentence a line", say(draw, "Put each sentence on its own line|Write one sentence per line|"
                    "Start a new line after every sentence"), text, apart)  # fmt: skip
    return Edit(
        "one line",
        say(draw, "Join the lines into one paragraph|Put it all on one line|Remove the line breaks"),
        apart,
        text,
    )


# -- numbers, dates, letters to people ---------------------------------------------------------------------------------


@maker(MADE)
def _thousands(text: str, draw: random.Random) -> Edit | None:
    numbers = [draw.randrange(1000, 10 ** draw.randint(4, 8)) for _ in range(draw.randint(1, 3))]
    frame = draw.choice(
        ("The town has {} people.", "It cost {} euros in all.", "They counted {} birds.", "We sold {} tickets.")
    )
    plain, grouped = (" ".join(frame.format(f"{n:{how}}") for n in numbers) for how in ("d", ",d"))
    if draw.random() < 0.6:
        return Edit("thousands", say(draw, "Write large numbers with commas|Add thousands separators|"
                    "Put commas into the numbers"), plain, grouped)  # fmt: skip
    return Edit(
        "no thousands",
        say(draw, "Remove the commas from the numbers|Write the numbers without separators"),
        grouped,
        plain,
    )


@maker(MADE)
def _number_words(text: str, draw: random.Random) -> Edit | None:
    pairs = [(draw.randrange(2, 13), draw.choice(WORDS)) for _ in range(draw.randint(1, 4))]
    digits, spelled = (
        "I bought " + ", ".join(f"{n if how else SMALL[n]} {word}s" for n, word in pairs) + "." for how in (True, False)
    )
    if draw.random() < 0.6:
        return Edit(
            "number words",
            say(draw, "Spell out the numbers|Write the numbers as words|Use words for numbers"),
            digits,
            spelled,
        )
    return Edit("digits", say(draw, "Use digits for the numbers|Write the numbers as digits"), spelled, digits)


@maker(MADE)
def _dates(text: str, draw: random.Random) -> Edit | None:
    year, month, day = draw.randrange(1950, 2030), draw.randrange(1, 13), draw.randrange(1, 29)
    ways = {
        "ISO": (f"{year}-{month:02d}-{day:02d}", "YYYY-MM-DD|ISO"),
        "day": (f"{day} {MONTHS[month - 1]} {year}", "day month year|5 March 2024"),
        "American": (f"{MONTHS[month - 1]} {day}, {year}", "month day, year|March 5, 2024"),
        "slashes": (f"{day:02d}/{month:02d}/{year}", "DD/MM/YYYY"),
    }  # fmt: skip
    one, other = draw.sample(list(ways), 2)
    frame = draw.choice(
        ("The meeting is on {}.", "She was born on {} in a small town.", "Deadline: {}", "Sent on {} by mail.")
    )
    ask = say(draw, "Write the date as {a}|Change the date to the format {a}|Use the date format {a}",
              a=draw.choice(ways[other][1].split("|")))  # fmt: skip
    return Edit("dates", ask, frame.format(ways[one][0]), frame.format(ways[other][0]))


@maker(MADE)
def _letters(text: str, draw: random.Random) -> Edit | None:
    who = draw.choice(("Mia", "Tom", "Sara", "Mr Brown", "Dr Wood", "team"))
    open_, other = draw.sample(("Hi", "Hello", "Dear", "Good morning"), 2)
    close, bye = draw.sample(("Best regards", "Kind regards", "Thanks", "Yours sincerely", "See you soon"), 2)
    body = draw.choice(("the report is ready. Let me know what you think.", "can we meet on Friday at ten?",
                        "thank you for your help with the move.", "the order has not arrived yet."))  # fmt: skip
    before = f"{open_} {who},\n\n{body}\n\n{close},\nAnna"
    if draw.random() < 0.5:
        ask = say(draw, 'Change the greeting to "{b}"|Begin with "{b}" instead|Use "{b}" as the greeting', b=other)
        return Edit("greeting", ask, before, before.replace(open_, other, 1))
    ask = say(draw, 'Change the sign-off to "{b}"|End with "{b}" instead|Sign off with "{b}"', b=bye)
    return Edit("sign-off", ask, before, before.replace(f"\n{close},", f"\n{bye},"))


@maker(MADE)
def _json(text: str, draw: random.Random) -> Edit | None:
    names = draw.sample([*NAMES, "name", "city", "price", "color", "size"], draw.randint(2, 5))
    table = {n: draw.choice((draw.randrange(100), draw.choice(WORDS), draw.random() < 0.5)) for n in names}
    key, new = draw.choice(names), draw.randrange(100, 1000)
    change = draw.randrange(4)
    if change == 0:
        ask, then = (
            say(draw, "Set {a} to {b}|Change {a} to {b}|Update {a}: it is {b}", a=key, b=new),
            {**table, key: new},
        )
    elif change == 1:
        ask = say(draw, "Remove the field {a}|Delete {a}|Drop the key {a}", a=key)
        then = {k: v for k, v in table.items() if k != key}
    elif change == 2:
        ask = say(draw, 'Rename the key {a} to {a}_id|Call {a} "{a}_id"', a=key)
        then = {(f"{key}_id" if k == key else k): v for k, v in table.items()}
    else:
        ask = say(draw, 'Add a field "extra" with the value {b}|Append "extra": {b}', b=new)
        then = {**table, "extra": new}
    indent = draw.choice((None, 2, 4))
    return Edit("json", ask, json.dumps(table, indent=indent), json.dumps(then, indent=indent))


# -- lines -------------------------------------------------------------------------------------------------------------


@maker(MADE)
def _lists(text: str, draw: random.Random) -> Edit | None:
    items = draw.sample(WORDS, draw.randint(3, 9))
    mark = draw.choice(("", "- ", "* "))

    def lines(some: Sequence[str]) -> str:
        return "\n".join(mark + item for item in some)

    kind = draw.choice(("sort", "reverse sort", "dedupe", "reverse", "number", "bullets", "comma", "delete"))
    if kind == "sort":
        return Edit(
            kind,
            say(draw, "Sort these lines|Sort the list alphabetically|Put the lines in alphabetical order"),
            lines(items),
            lines(sorted(items)),
        )
    if kind == "reverse sort":
        ask = say(
            draw, "Sort the list from Z to A|Sort in reverse alphabetical order|Sort the lines in descending order"
        )
        return Edit(kind, ask, lines(items), lines(sorted(items, reverse=True)))
    if kind == "dedupe":
        twice = [item for item in items for _ in range(draw.choice((1, 1, 2)))]
        seen = draw.sample(twice, len(twice))
        ask = say(
            draw, "Remove duplicate lines|Delete repeated lines, keep the first of each|Each line only once, please"
        )
        return Edit(kind, ask, lines(seen), lines(list(dict.fromkeys(seen))))
    if kind == "reverse":
        return Edit(
            kind,
            say(draw, "Reverse the order of the lines|Turn the list upside down"),
            lines(items),
            lines(items[::-1]),
            False,
        )
    numbered = "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1))
    if kind == "number":
        return Edit(
            kind,
            say(draw, "Number the lines|Make this a numbered list|Turn it into a numbered list"),
            lines(items),
            numbered,
        )
    if kind == "bullets":
        ask = say(
            draw, "Use bullet points (-) instead of numbers|Turn the numbers into dashes|Make it a list with dashes"
        )
        return Edit(kind, ask, numbered, "\n".join(f"- {item}" for item in items))
    if kind == "comma":
        return Edit(
            kind,
            say(draw, "Put the items on one line, separated by commas|Make this a comma-separated line"),
            lines(items),
            ", ".join(items),
        )
    gone = draw.choice(items)
    return Edit(
        kind,
        say(draw, "Remove {a} from the list|Delete the line {a}|Take {a} off the list", a=gone),
        lines(items),
        lines([i for i in items if i != gone]),
    )


# -- code --------------------------------------------------------------------------------------------------------------


def _names(text: str) -> list[str]:
    """Names that may be renamed: they occur at least twice and are no keyword."""
    found = NAME.findall(text)
    return sorted(
        {
            n
            for n in found
            if found.count(n) > 1 and not keyword.iskeyword(n) and n not in ("self", "cls", "this", "None")
        }
    )


@maker(CODE)
def _rename(text: str, draw: random.Random) -> Edit | None:
    if not (names := _names(text)):
        return None
    old, new = draw.choice(names), draw.choice(NAMES) + draw.choice(("", "_value", "2", "_new"))
    if re.search(rf"\b{new}\b", text):
        return None
    ask = say(draw, "Rename {a} to {b}|Call {a} {b} instead|Rename the identifier `{a}` to `{b}`|Use the name {b} for {a}|"
              "Change the name {a} to {b} everywhere", a=old, b=new)  # fmt: skip
    return Edit("rename", ask, text, _sub(old, new, text))


@maker(CODE)
def _camel(text: str, draw: random.Random) -> Edit | None:
    names = [n for n in _names(text) if re.fullmatch(r"[a-z]+(_[a-z0-9]+)+", n)]
    if not names:
        return None
    old = draw.choice(names)
    first, *rest = old.split("_")
    new = first + "".join(part.title() for part in rest)
    ask = say(draw, "Write {a} in camelCase|Change {a} to camelCase|Use camelCase for the name {a}", a=old)
    return None if new in text else Edit("camel case", ask, text, _sub(old, new, text))


@maker(CODE)
def _quotes(text: str, draw: random.Random) -> Edit | None:
    if re.search(r"\"\"\"|'''|\\|#|//|`", text):
        return None
    one, other = draw.sample("'\"", 2)
    if one not in text or other in text or text.count(one) % 2 or re.search(r"\w'\w", text):
        return None
    how = {"'": "single", '"': "double"}
    ask = say(draw, "Use {b} quotes|Change the {a} quotes to {b} quotes|Write strings in {b} quotes|Replace {a} by {b} quotes",
              a=how[one], b=how[other])  # fmt: skip
    return Edit("quotes", ask, text, text.replace(one, other))


@maker(CODE)
def _number(text: str, draw: random.Random) -> Edit | None:
    found = re.findall(r"(?<![\w.])\d{1,5}(?![\w.])", text)
    once = sorted({n for n in found if found.count(n) == 1 and text.count(n) == 1})
    if not once:
        return None
    old = draw.choice(once)
    new = str(int(old) + draw.randint(1, 90))
    ask = say(
        draw,
        "Change {a} to {b}|Use {b} instead of {a}|Replace the number {a} by {b}|The {a} should be {b}",
        a=old,
        b=new,
    )
    return None if new in text else Edit("number", ask, text, text.replace(old, new))


@maker(CODE)
def _delete_line(text: str, draw: random.Random) -> Edit | None:
    lines = text.split("\n")
    if not 4 <= len(lines) <= 25:
        return None
    at = draw.randrange(1, len(lines))
    ask = say(draw, "Delete line {n}|Remove line {n}|Take out line number {n}", n=at + 1)
    return Edit("delete line", ask, text, "\n".join(lines[:at] + lines[at + 1 :]), False)


@maker(CODE)
def _comment(text: str, draw: random.Random) -> Edit | None:
    lines = text.split("\n")
    places = [i for i, line in enumerate(lines) if line.strip() and lines.count(line) == 1]
    if not places or not re.search(r"^\s*def |^\s*return", text, re.M):
        return None
    at, words = draw.choice(places), " ".join(draw.sample(WORDS, 3))
    note = lines[at][: len(lines[at]) - len(lines[at].lstrip())] + f"# {words}"
    ask = say(draw, 'Add the comment "# {b}" above `{a}`|Put "# {b}" on a line of its own before `{a}`|'
              "Write the comment # {b} over the line `{a}`", a=lines[at].strip(), b=words)  # fmt: skip
    return Edit("comment", ask, text, "\n".join([*lines[:at], note, *lines[at:]]), False)


@maker(CODE)
def _no_comments(text: str, draw: random.Random) -> Edit | None:
    lines = text.split("\n")
    kept = [line for line in lines if not line.strip().startswith("#")]
    if len(kept) == len(lines) or '"""' in text:
        return None
    ask = say(draw, "Remove the comment lines|Delete lines that are only a comment|Strip the comment lines")
    return Edit("no comments", ask, text, "\n".join(kept))


@maker(CODE)
def _indent(text: str, draw: random.Random) -> Edit | None:
    lines = text.split("\n")
    deep = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    if "\t" in text or '"""' in text or not any(deep) or any(d % 4 for d in deep):
        return None
    by, name = draw.choice((("  ", "2 spaces"), ("\t", "tabs")))
    after = "\n".join(
        by * ((len(ln) - len(ln.lstrip(" "))) // 4) + ln.lstrip(" ") if ln.strip() else ln for ln in lines
    )
    ask = say(
        draw, "Indent with {b}|Use {b} for indentation|Change the indentation to {b}|Reindent this with {b}", b=name
    )
    return Edit("indent", ask, text, after, name == "tabs")


@maker(CODE)
def _trailing(text: str, draw: random.Random) -> Edit | None:
    lines = text.split("\n")
    if len(lines) < 3 or re.search(r"[ \t]+$", text, re.M):
        return None
    chosen = set(draw.sample(range(len(lines)), draw.randint(1, min(4, len(lines)))))
    spoilt = "\n".join(line + " " * draw.randint(1, 3) if i in chosen else line for i, line in enumerate(lines))
    return Edit(
        "trailing spaces", say(draw, "Remove trailing whitespace|Strip spaces at the ends of lines"), spoilt, text
    )


@maker(CODE)
def _sort_imports(text: str, draw: random.Random) -> Edit | None:
    names = draw.sample(MODULES, draw.randint(3, 6))
    if re.search(r"^(import|from) ", text, re.M):
        return None
    before, after = ("\n".join(f"import {name}" for name in some) + f"\n\n\n{text}" for some in (names, sorted(names)))
    return Edit(
        "sort imports",
        say(draw, "Sort the imports|Put the imports in alphabetical order|Order the import lines"),
        before,
        after,
    )


# -- many --------------------------------------------------------------------------------------------------------------


KINDS = {"prose": PROSE, "code": CODE, "made": MADE}


def edits(
    texts: Iterable[tuple[str, str]], seed: int, kinds: str = "prose", each: int = 1
) -> Iterator[tuple[str, Edit]]:
    """(source, edit) for every (text, source), `each` of them where so many kinds apply; those that change nothing are left out.

    kinds: of `KINDS`. Every kind is tried in a drawn order, so that rare ones get their chance first. Raises ValueError.
    """
    if kinds not in KINDS:
        raise ValueError(f"kinds is {kinds!r}; allowed: {', '.join(KINDS)}")
    table = KINDS[kinds]
    for number, (text, source) in enumerate(texts):
        draw = random.Random(f"{seed} {kinds} {number}")
        made = 0
        for name in draw.sample(list(table), len(table)):
            edit = table[name](text, draw)
            if edit is not None and edit.before != edit.after and edit.after.strip():
                yield source, edit
                made += 1
            if made == each:
                break


def no_op(edit: Edit) -> Edit | None:
    """The same request of a text that fulfils it already; None where it would change that again."""
    return Edit("no-op", edit.instruction, edit.after, edit.after) if edit.stable else None
