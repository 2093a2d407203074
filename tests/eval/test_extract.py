"""What is taken out of an answer, form by form."""

import pytest

from mezzotint.eval import extract as e
from mezzotint.eval.answer import bbeh_prediction, bbeh_same, math_same


def test_code():
    assert e.python_block("a\n```python\nx = 1\n```\nb\n```py\ny\n```") == "x = 1"
    assert e.python_block("```\nx\n```") == "x" and e.python_block("none") is None
    assert e.python_block("```python\nx = 1\ny") == "x = 1\ny"
    assert e.last_two_fences("```python\na\n```\n```\nb\n```") == "b" and e.last_two_fences("```\na") is None
    assert e.continuation("    return 1\n\ndef other():\n    pass") == "    return 1\n"
    assert e.longest_code("text\n```\na = 1\n```\n```\na = 1\nb = 2\n```") == "a = 1\nb = 2"
    assert e.longest_code("a = 1\nb = (") == "a = 1"
    needed = e.needed("import os\nX = 1\nY = 2\ndef g(): return X\ndef f(): return g()\nprint(f())", "f")
    assert needed == "import os\nX = 1\ndef g(): return X\ndef f(): return g()"
    assert e.without_reasoning("<think>a</think>b") == "b" and e.without_reasoning("a</think>b") == "b"
    assert e.without_reasoning("<think>never ends") == ""


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: B", "B"), ("**Answer:** (c)", "C"), ("answer : $D$", "D"), ("Answer: $\\text{A}$", "A"),
        ("The answer is \\boxed{B}.", "B"), ("I take (C)", "C"), ("D", "D"), ("Antwort: C", "C"), ("答案：Ｂ", "B"),
        ("الإجابة: ب", "B"), ("উত্তর: খ", "B"), ("答えはCです", "C"), ("Réponse : A", "A"), ("jibu: D", "D"), ("정답: A", "A"),
        ("", None), ("I do not know", None), ("Answer: E", None),
    ],
)  # fmt: skip
def test_letters(text, letter):
    said = e.letters_said(text, languages=True)
    assert (said[0] if said else e.letter_fallback(text)) == letter


# MathArena's parser takes none of these for a number, so neither do we
NO_NUMBER = ("\\boxed{{\\text{{{n}}}}}", "\\boxed{{\\textbf{{{n}}}}}", "\\boxed{{{n} degrees}}")
FORMS = (
    "\\boxed{{{n}}}", "\\boxed{{0{n}}}", "\\boxed{{ {n} }}", "\\boxed{{\\text{{{n}}}}}", "\\boxed{{\\mathrm{{{n}}}}}",
    "\\boxed{{{n}.}}", "\\boxed{{{n}.0}}", "\\boxed{{{n}.}} is it", "$\\boxed{{{n}}}$", "$$\\boxed{{{n}}}$$", "\\fbox{{{n}}}",
    "\\boxed {{{n}}}", "\\boxed{{1}} no, \\boxed{{{n}}}", "\\boxed{{\\textbf{{{n}}}}}", "\\boxed{{${n}$}}",
    "\\boxed{{\\frac{{{d}}}{{2}}}}", "\\boxed{{{n}^\\circ}}", "\\boxed{{{n} \\text{{ units}}}}", "\\boxed{{{n}\\%}}",
    "\\boxed{{{n} degrees}}", "\\boxed{{\\boxed{{{n}}}}}", "\\boxed{{{d}/2}}", "\\boxed{{+{n}}}", "\\boxed{{{n}\\,}}",
    "The answer is {n}", "The answer is {n}.", "**{n}**", "{n}", "So 12 + 1 = {n}", "It is 7.\n\nAnswer: {n}",
    "It is 7.\nanswer {n}\n\n---\n", "m + n = {n}", "**Answer: {n}**", "$m+n={n}$", "Answer: 00{n}", "we get {n}!", "thus ({n})",
    "[{n}]", "= {n}\n$$", "x = 3, so {n}",
)  # fmt: skip


@pytest.mark.parametrize("n", [3, 70, 588, 0, 999])
def test_forty_forms_of_an_aime_answer(n):
    assert len(FORMS) == 40
    for form in FORMS:
        text = "Let us see.\n" + form.format(n=n, d=2 * n)
        answer = e.aime_answer(text)
        found = None if answer is None else e.aime_integer(answer)
        assert found == (None if form in NO_NUMBER else n), (form, answer)


def test_what_is_no_aime_answer():
    for text in (
        "\\boxed{-3}",
        "\\boxed{1000}",
        "\\boxed{3.5}",
        "\\boxed{\\frac{3}{2}}",
        "\\boxed{x}",
        "\\boxed{3, 4}",
        "It is 70: \\boxed{\\text{70}}",
    ):
        answer = e.aime_answer(text)
        assert answer is None or e.aime_integer(answer) is None, text
    assert e.aime_answer("\\boxed{m + n = 70}") == "70"
    assert e.aime_answer("no number") is None and e.aime_answer("") is None


@pytest.mark.parametrize(
    ("text", "target", "same"),
    [
        ("The answer is: (A)", "a", True), ("The answer is: a", "(a)", True), ("The answer is: 25.0", "25", True),
        ("The answer is: **25**\nbecause", "25", True), ("So the answer is 5, I think", "5", False), ("25", "25", True),
        ("I say\nThe answer is: 25", "25", True), ("nan", "nan", True),
        ("The answer is: NAN.", "nan", True), ("0nan", "nan", False),
        ("The final answer is: $\\boxed{\\text{yes}}$.", "yes", True), ("The answer is: a, b", "a,b", True),
        ("The answer is: [1, 2]", "1, 2", True), ("The answer is: don't", "dont", True), ("The answer is: who?", "who", True),
        ("The answer is: (B)", "(A)", False), ("The answer is yes. The answer is: no", "no", True),
    ],
)  # fmt: skip
def test_bbeh(text, target, same):
    assert bbeh_same(bbeh_prediction(text), target.strip().lower().replace(", ", ",")) is same


def test_maths():
    for answer, target in (
        ("\\dfrac{1}{2}", "\\frac12"), ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"), ("1,234", "1234"),
        ("x = 5", "5"), ("90^\\circ", "90"),
    ):  # fmt: skip
        assert math_same(answer, target)[0], answer
    assert not math_same("5", "6")[0]
    assert (
        e.last_number("costs $1,234.50 now") == "1234.50" and e.last_number("-3") == "-3" and e.last_number("x") is None
    )
