"""Presets are data, bad ones are named, and their checks find what they are for."""

import pytest

from mezzotint.edit.checks import problems
from mezzotint.edit.hunks import Edit, Hunk
from mezzotint.edit.presets import OURS, preset, presets

SEVEN = ["grammar", "audience", "seo", "refactor", "feature", "convert", "free"]


def test_ours_are_seven_and_say_what_they_need():
    known = presets()
    assert list(known) == SEVEN and all(one.title for one in known.values())
    assert {name: one.needs for name, one in known.items() if one.needs} == {
        "audience": ["audience"], "seo": ["keywords"], "feature": ["instruction"], "convert": ["language"],
        "free": ["instruction"],
    }  # fmt: skip
    ask = known["audience"].ask({"audience": "children"}, strength=0.9)
    assert "for children" in ask.instruction and (ask.strength, ask.rewrites, ask.sure) == (0.9, True, 0.6)
    for name, how in (("audience", "--with audience="), ("free", "-i")):
        with pytest.raises(ValueError, match=f"preset '{name}' needs .*{how}"):
            known[name].ask({"audience": " "})
    with pytest.raises(ValueError, match="unknown preset 'magic'; known: grammar, audience"):
        preset("magic")


def test_users_add_their_own_and_hear_what_is_wrong(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[pirate]\nprompt = "Say it like a {who}"\nstrength = 1\n[grammar]\nprompt = "Mend it"\n')
    assert list(presets(path)) == [*SEVEN, "pirate"]
    assert preset("pirate", path).ask({"who": "pirate"}).strength == 1 and preset("grammar", path).prompt == "Mend it"
    for text, words in (
        ("x", "is not TOML"), ("a = 1", "preset 'a': 1; expected a table"), ("[a]\n", "no prompt"),
        ('[a]\nprompt = "x"\ncolour = 1', "unknown key 'colour'; known: title, prompt"),
        ('[a]\nprompt = "x"\nstrength = 2', "strength is 2"), ('[a]\nprompt = "x"\nstrength = true', "of another kind"),
        ('[a]\nprompt = "x"\nstop = { steps = 3 }', "unknown key 'steps'; known: sure, max_steps"),
        ('[a]\nprompt = "x"\nchecks = ["nice"]', "unknown check 'nice'; known: length"),
        ('[a]\nprompt = "{x.y}"', "a value has a name"), ('[a]\nprompt = "{"', "no template"), ('[a]\nprompt = " "', "empty"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            presets(path)
    assert OURS.read_text().count("checks =") == 6


def replaced(before, after):
    return Edit(before, [Hunk(0, len(before), before, after)])


@pytest.mark.parametrize(
    ("check", "before", "after", "values", "problem"),
    [
        ("length", "a b c d", "a b", {}, "43% of its old length"), ("length", "a b c", "a b d", {}, None),
        ("keywords", "x", "We sell Red shoes in the town of Rome.", {"keywords": "red shoes, rome"}, None),
        ("keywords", "x", "We sell shoes here today. red shoes, rome", {"keywords": "red shoes,rome"}, "red shoes, rome"),
        ("keywords", "x", "We sell shoes in Romeo and here.", {"keywords": "rome"}, "not in a sentence: rome"),
        ("parses", "x = 1\n", "x = \n", {}, "no Python any more"), ("parses", "{\"a\": 1}", "{a}", {}, "no JSON any more"),
        ("parses", "x = 1\n", "x = 2\n", {}, None), ("parses", "no code at all", "still none", {}, None),
        ("names", "def f(): pass\n", "def g(): pass\n", {}, "no longer defined: f"),
        ("speaks", "let x", "x =", {"language": "python"}, "is not python"),
        ("speaks", "x", "fn main", {"language": "Rust"}, None),
    ],
)  # fmt: skip
def test_checks_find_what_they_are_for(check, before, after, values, problem):
    found = problems(replaced(before, after), [check], values)
    assert (problem is None and not found) or problem in found[0], found
    assert problems(Edit(before, []), [check], values) == []
