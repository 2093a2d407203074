"""Benchmarks whose answer is a value: BIG-Bench Extra Hard, AIME, GPQA, Global MMLU Lite, GSM8K, MATH-500.

Each: prompt in the authors' words, what counts as the answer, when two values are the same. Option letters of GPQA
are shuffled by (record, sample), so that every sample is another order.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

from mezzotint.eval.data import required
from mezzotint.eval.extract import (
    aime_answer,
    aime_integer,
    bare,
    boxed,
    last_number,
    letter_fallback,
    letters_said,
)
from mezzotint.eval.judge import Judge
from mezzotint.eval.task import NO_ANSWER, Item, Rows, Task, Verdict, user

# -- BIG-Bench Extra Hard -------------------------------------------------------------------------------------------

BBEH_SUFFIX = (
    '\n\nThink step by step, and when you are ready to provide the final answer, use the prefix "The answer is:" *without any '
    "modification*, and provide the answer directly, with no formatting, no bolding, and no markup. For instance: "
    '"The answer is: 42" or "The answer is: yes". If the question is multiple choice with a single correct answer, the final '
    'answer must only be the letter corresponding to the correct answer. For example, "The answer is: (a)".'
)
PREFIXES = ("The answer is:", "The final answer is ", "The final answer is: ", "The answer is ")


def bbeh_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for row in rows:
        required(row, "id", "input", "target")
        text = row["input"] + BBEH_SUFFIX
        group = str(row.get("task", "")).removeprefix("bbeh_").replace("_", " ")
        items.append(Item(row["id"], user(text), text + "\n\n", {"target": row["target"]}, group))
    return items


def bbeh_prediction(text: str) -> str:
    """What the authors take as the answer: behind the last prefix, unwrapped, lower case, its first line."""
    answer = text.strip()
    for prefix in PREFIXES:
        if prefix in answer:
            answer = answer.split(prefix)[-1].strip()
    answer = answer.removesuffix(".")
    if len(answer) > 1 and answer.startswith("$") and answer.endswith("$"):
        answer = answer[1:-1]
    for wrapper in ("boxed{", "text{", "texttt{"):
        if wrapper in answer and answer.endswith("}"):
            answer = answer[:-1].split(wrapper)[1]
    answer = answer.lower().replace(", ", ",").replace("**", "")
    return answer.split("\n")[0].removesuffix(".")


def bbeh_same(prediction: str, reference: str) -> bool:
    """The authors' fuzzy match; both sides prepared."""
    if prediction == reference:
        return True
    for one, other in ((prediction, reference), (reference, prediction)):
        if len(one) == 3 and one[0] == "(" and one[2] == ")":
            return one[1] == other
    try:
        if float(prediction) == float(reference):
            return True
    except ValueError:
        pass
    if prediction.replace("'", "") == reference.replace("'", ""):
        return True
    return prediction in (f"[{reference}]", f"{reference}?") or f"[{prediction}]" == reference


def bbeh_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    reference = str(item.gold["target"]).strip().lower().replace(", ", ",")
    if bbeh_same(bbeh_prediction(text), reference):
        return Verdict.of(True)
    return Verdict.of(False) if any(prefix in text for prefix in PREFIXES) else NO_ANSWER


# -- numbers --------------------------------------------------------------------------------------------------------

BOXED = "\n\nPlease reason step by step, and put your final answer within \\boxed{}."


def aime_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for row in rows:
        required(row, "id", "problem", "expected_answer")
        text = row["problem"] + BOXED
        items.append(Item(row["id"], user(text), text + "\n\n", {"target": int(row["expected_answer"])}))
    return items


def aime_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    answer = aime_answer(text)
    return NO_ANSWER if answer is None else Verdict.of(aime_integer(answer) == item.gold["target"], answer[:40])


def gsm8k_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for number, row in enumerate(rows):
        required(row, "question", "answer")
        text = row["question"] + "\n\nThink step by step and end with the answer as a number."
        gold = {"target": row["answer"].rsplit("####", 1)[-1].strip().replace(",", ""), "solution": row["answer"]}
        items.append(Item(str(number), user(text), f"Question: {row['question']}\nAnswer:", gold))
    return items


def gsm8k_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    text = text.split("\nQuestion:")[0] if plain else text
    answer = last_number(text)
    if answer is None:
        return NO_ANSWER
    try:
        return Verdict.of(Decimal(answer) == Decimal(item.gold["target"]), answer[:40])
    except InvalidOperation:
        return Verdict.of(False, answer[:40])


def math_items(rows: Rows, sample: int) -> list[Item]:
    items = []
    for number, row in enumerate(rows):
        required(row, "question", "ground_truth_answer")
        text = row["question"] + BOXED
        items.append(Item(str(number), user(text), text + "\n\n", {"target": row["ground_truth_answer"]}))
    return items


def math_normal(value: str) -> str:
    """One spelling of a LaTeX value: no spaces, no \\left and \\right, one kind of fraction and root."""
    value = bare(value).replace("\\left", "").replace("\\right", "").replace("\\displaystyle", "")
    value = re.sub(r"\\[dt]frac", r"\\frac", value)
    value = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", value)
    value = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", value)
    value = re.sub(r"^[a-zA-Z]\s*=\s*", "", value)
    value = re.sub(r"\\[!,;: ]|\s|~", "", value)
    value = re.sub(r"\\text\{([^}]*)\}|\\mbox\{([^}]*)\}", r"\1\2", value)
    value = re.sub(r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", value)
    return re.sub(r"^(-?\d+)\.0*$", r"\1", value)


def math_same(answer: str, target: str) -> tuple[bool, str]:
    """Equality, and by what it was judged: math_verify where it is installed, else the normalised string."""
    if math_normal(answer) == math_normal(target):
        return True, "string"
    try:
        from math_verify import parse, verify
    except ImportError:
        return False, "string"
    return bool(verify(parse(f"${target}$"), parse(f"${answer}$"))), "math_verify"


def math_judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
    answer = boxed(text)
    return NO_ANSWER if answer is None else Verdict.of(*math_same(answer, item.gold["target"]))


# -- four options ---------------------------------------------------------------------------------------------------

CHOICE = """Answer the following multiple choice question. The last line of your response should be of the following format: \
'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think step by step before answering.

{question}

A) {A}
B) {B}
C) {C}
D) {D}"""


def _choice(question: str, options: Mapping[str, str]) -> tuple[tuple[Mapping[str, str], ...], str]:
    plain = "\n".join([f"Question: {question.strip()}", *(f"{k}. {v}" for k, v in options.items()), "Answer:"])
    return user(CHOICE.format(question=question.strip(), **options)), plain


def gpqa_items(rows: Rows, sample: int) -> list[Item]:
    """The order of a record's options is drawn from its id and the sample's number."""
    items = []
    for number, row in enumerate(rows):
        required(row, "Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
        name = str(row.get("Record ID") or number)
        options = [row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))]
        order = list(range(4))
        random.Random(int.from_bytes(hashlib.sha256(f"{name}/{sample}".encode()).digest()[:8], "big")).shuffle(order)
        shown = {letter: options[i].strip() for letter, i in zip("ABCD", order, strict=True)}
        chat, plain = _choice(row["Question"], shown)
        gold = {"target": "ABCD"[order.index(0)], "order": order}
        items.append(Item(name, chat, plain, gold, str(row.get("High-level domain", ""))))
    return items


def choice_judge(languages: bool) -> Callable[[Item, str, bool, Judge], Verdict]:
    """The published rule: the first letter after "answer:". Says in the note when the last one would be another."""

    def judge(item: Item, text: str, plain: bool, judge: Judge) -> Verdict:
        said = letters_said(f"Answer: {text}" if plain else text, languages)
        letter = said[0] if said else letter_fallback(text)
        if letter is None:
            return NO_ANSWER
        note = letter if not said or said[-1] == letter else f"{letter}, last {said[-1]}"
        return Verdict.of(letter == item.gold["target"], note)

    return judge


def mmlu_items(rows: Rows, sample: int) -> list[Item]:
    """Rows of all languages found; the language is the row's, or the name of the file or folder it came from."""
    items = []
    for row in rows:
        required(row, "sample_id", "question", "option_a", "option_b", "option_c", "option_d", "answer")
        language = str(row.get("language") or str(row.get("_file", "")).removeprefix("global_mmlu_lite_"))
        chat, plain = _choice(row["question"], {k: row[f"option_{k.lower()}"] for k in "ABCD"})
        gold = {"target": str(row["answer"]).strip().upper()}
        name = f"{language}/{row['sample_id']}"
        items.append(Item(name, chat, plain, gold, language, str(row.get("cultural_sensitivity_label", ""))))
    return items


# -- the table ------------------------------------------------------------------------------------------------------


def _said(item: Item) -> str:
    return f"The answer is: {item.gold['target']}"


def _boxed(item: Item) -> str:
    return f"So it is \\boxed{{{item.gold['target']}}}."


def _letter(item: Item) -> str:
    return f"It is plain.\nAnswer: {item.gold['target']}"


TASKS = (
    Task(
        "gpqa", "GPQA Diamond", (("gpqa_diamond",), ("gpqa",)), gpqa_items, choice_judge(False), _letter, 198,
        "gpqa_diamond.csv out of the authors' zip (idavidrein/gpqa), or the gated hub data set Idavidrein/gpqa",
        2048, "gpqa_schema", founding=True, published=(40.4, 56.5), note="a sample is an order of the options",
    ),
    Task(
        "aime2025", "AIME 2025", (("aime2025",),), aime_items, aime_judge, _boxed, 30, "NVIDIA/NeMo-Skills (aime25)", 4096,
        founding=True, published=(23.3, 20.0), note="one problem is 3.3 points: use 16 samples or more",
    ),
    Task("aime2024", "AIME 2024", (("aime2024",),), aime_items, aime_judge, _boxed, 30, "NVIDIA/NeMo-Skills (aime24)", 4096),
    Task(
        "bbeh", "BIG-Bench Extra Hard", (("bbeh",),), bbeh_items, bbeh_judge, _said, 4520, "google-deepmind/bbeh", 2048,
        founding=True, published=(15.0, 21.0), note="published: a micro average, by its size",
    ),
    Task(
        "bbeh-mini", "BIG-Bench Extra Hard, mini", (("bbeh_mini",),), bbeh_items, bbeh_judge, _said, 460,
        "google-deepmind/bbeh", 2048,
    ),
    Task(
        "mmlu-lite", "Global MMLU Lite", (("global_mmlu_lite*",), ("Global-MMLU-Lite/*/test-*",)),
        mmlu_items, choice_judge(True), _letter, 400 * 18,
        "hub data set CohereLabs/Global-MMLU-Lite, as its folder or as global_mmlu_lite_LANGUAGE.parquet",
        1024, "global_mmlu_lite_schema", founding=True, published=(69.1, 79.0), note="mean over languages",
    ),
    Task(
        "gsm8k", "GSM8K", (("gsm8k_test",),), gsm8k_items, gsm8k_judge, lambda i: i.gold["solution"], 1319,
        "openai/grade-school-math", 512,
    ),
    Task("math500", "MATH-500", (("math500",),), math_items, math_judge, _boxed, 500, "hendrycks/math, 500 rows", 2048),
)  # fmt: skip


# -- averages -------------------------------------------------------------------------------------------------------


def averages(task: str, by_group: Mapping[str, list[float]]) -> dict[str, float]:
    """The other averages that a benchmark is reported by; scores from 0 to 1."""
    means = {group: math.fsum(values) / len(values) for group, values in by_group.items() if values}
    if task == "bbeh":
        return {
            "mean over tasks": math.fsum(means.values()) / len(means),
            "harmonic mean over tasks of (accuracy + 1 point)": len(means)
            / sum(1 / (m + 0.01) for m in means.values()),
        }
    return {"mean over languages": math.fsum(means.values()) / len(means)} if task == "mmlu-lite" else {}
