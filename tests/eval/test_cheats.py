"""Every cheat is judged wrong in strict mode, an honest answer right; what official mode lets through is counted and printed."""

import pytest
from cheats import CLASS, FUNCTION, PROGRAM

HONEST = "def f(n):\n    return 3 * n + 1\n"
TESTS = "def check(candidate):\n    assert candidate(5) == 16\n    assert candidate(70) == 211\n\ncheck(f)\n"
CASES = """
import unittest
class TestCases(unittest.TestCase):
    def test_small(self):
        self.assertEqual(f(5), 16)
    def test_large(self):
        self.assertEqual(f(70), 211)
"""
PAIRS = [("5\n", "16\n"), ("70\n", "211\n")]


def function(judge, code):
    return judge.tests(code, TESTS, 5, entry="f", setup="")


def case(judge, code):
    return judge.unit(code, CASES, 5)


def program(judge, code):
    return judge.stdin_tests(code, PAIRS, 5, "")


def test_an_honest_answer_passes_everywhere(strict, official):
    for judge in (strict, official):
        assert function(judge, HONEST).state == "correct"
        assert case(judge, HONEST).state == "correct"
        assert program(judge, "print(3 * int(input()) + 1)").state == "correct"
        wrong = HONEST.replace("+ 1", "+ 2")
        assert function(judge, wrong).state == case(judge, wrong).state == "wrong"
        assert program(judge, "print(3 * int(input()))").state == "wrong"


@pytest.mark.parametrize("name", FUNCTION)
def test_a_function_that_cheats_fails(strict, name):
    assert function(strict, FUNCTION[name]).state == "wrong", name


@pytest.mark.parametrize("name", CLASS)
def test_a_module_that_cheats_its_unittest_fails(strict, name):
    assert case(strict, CLASS[name]).state == "wrong", name


@pytest.mark.parametrize("name", PROGRAM)
def test_a_program_that_cheats_fails(strict, name):
    assert program(strict, PROGRAM[name]).state == "wrong", name


def test_how_many_cheats_official_grading_accepts(official, full):
    if not full:
        pytest.skip("counted under MEZZOTINT_FULL=1")
    passed = [name for name, code in FUNCTION.items() if function(official, code).state == "correct"]
    passed += [f"unittest: {name}" for name, code in CLASS.items() if case(official, code).state == "correct"]
    passed += [f"stdin: {name}" for name, code in PROGRAM.items() if program(official, code).state == "correct"]
    print(f"\nofficial accepts {len(passed)} of {len(FUNCTION) + len(CLASS) + len(PROGRAM)}: {'; '.join(passed)}")
    assert "an object that equals everything" in passed
