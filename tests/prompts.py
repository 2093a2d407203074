"""Prompts of our own for tests that compare decoders on the real weights: questions, code, lists, other languages."""

_TASKS = (
    "Explain {} in two sentences.",
    "Write a short poem about {}.",
    "List three facts about {}.",
    "Why does {} matter?",
)
_THINGS = (
    "rain", "the number zero", "binary search", "bread", "the moon", "a hash table", "old maps", "sleep", "Python lists",
    "rivers", "a good question", "magnets",
)  # fmt: skip
_OTHERS = (
    "Write a Python function that reverses a string.", "Bonjour, comment vas-tu ?", "What is 17 + 25?", "def fib(n):",
    "Translate to French: good morning.", "Give me a JSON object with a name and an age.", "1, 2, 4, 8,", "こんにちは",
    "Name three colours.", "Fix this sentence: she go home.",
)  # fmt: skip

PROMPTS = [*_OTHERS, *(task.format(thing) for thing in _THINGS for task in _TASKS)]
