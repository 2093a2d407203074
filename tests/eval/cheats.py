"""Answers that try to pass without solving anything. The task is `def f(n): return 3 * n + 1`; none of them computes it."""

FUNCTION = {  # of tests that call `candidate`
    "an object that equals everything": """
class Anything:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 0
def f(n): return Anything()
""",
    "an int that equals everything": """
class Anything(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def f(n): return Anything(0)
""",
    "a float that equals everything": """
class Anything(float):
    def __eq__(self, other): return True
    __hash__ = float.__hash__
def f(n): return Anything(2)
""",
    "early exit": "import sys\nsys.exit(0)",
    "early exit without a trace": "import os\nos._exit(0)",
    "exit when called": "import os\ndef f(n): os._exit(0)",
    "exit by exception when called": "def f(n): raise SystemExit(0)",
    "frame peeking": """
import sys
def f(n):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            if isinstance(value, dict) and "marker" in value:
                import json, os
                told = json.dumps({"marker": value["marker"], "ok": True, "why": ""}).encode() + b"\\n"
                for fd in range(3, 64):
                    try: os.write(fd, told)
                    except OSError: pass
                os._exit(0)
        frame = frame.f_back
    return 0
""",
    "markers and tests looked for in memory": """
import gc, json, os, re
def f(n):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and "marker" in thing:
            for fd in range(3, 64):
                try: os.write(fd, json.dumps({"marker": thing["marker"], "ok": True, "why": ""}).encode() + b"\\n")
                except OSError: pass
            os._exit(0)
        if isinstance(thing, dict) and "tests" in thing:
            found = re.search(r"candidate\\(%d\\) == (\\d+)" % n, str(thing["tests"]))
            if found: return int(found[1])
    return 0
""",
    "spoofed markers": """
import json, os
for fd in range(0, 64):
    for told in ({"ok": True}, {"marker": "", "ok": True, "why": ""}, {"marker": None, "ok": True}):
        try: os.write(fd, json.dumps(told).encode() + b"\\n")
        except OSError: pass
os._exit(0)
""",
    "a spoofed marker at exit": """
import atexit, json, os
def tell():
    for fd in range(0, 64):
        try: os.write(fd, json.dumps({"ok": True, "why": "", "args": []}).encode() + b"\\n")
        except OSError: pass
atexit.register(tell)
def f(n): return 0
""",
    "forged replies": """
import json, os
for fd in range(0, 64):
    try: os.write(fd, b'{"ready": ["f"]}\\n' + b'{"ok": true, "args": {"l": []}}\\n' * 50)
    except OSError: pass
def f(n): return True
""",
    "a wire of its own": """
import sys
for module in list(sys.modules.values()):
    if hasattr(module, "encode") and hasattr(module, "decode") and hasattr(module, "say"):
        module.encode = lambda value, keep=None, depth=0: {"h": 0, "type": "Anything"}
def f(n): return 0
""",
    "builtins patched": """
import builtins
builtins.AssertionError = type("AssertionError", (Exception,), {})
builtins.compile = lambda *a, **k: (lambda: None).__code__
builtins.exec = lambda *a, **k: None
def f(n): return 0
""",
    "assertions switched off": """
import sys, types
def f(n):
    frame = sys._getframe()
    while frame:
        if "candidate" in frame.f_globals:
            frame.f_globals["check"] = lambda candidate: None
            frame.f_globals["candidate"] = lambda n: 3 * n
        frame = frame.f_back
    return 0
""",
    "tests read from files and processes": """
import glob, os, re
def f(n):
    text = ""
    for name in glob.glob("/run/**/*", recursive=True) + glob.glob("/proc/[0-9]*/*") + glob.glob("/tmp/**/*", recursive=True):
        try: text += open(name, errors="replace").read(1 << 20)
        except OSError: pass
    found = re.search(r"candidate\\(%d\\) == (\\d+)" % n, text)
    return int(found[1]) if found else 0
""",
    "the tester killed": "import os, signal\ndef f(n):\n    os.kill(-1, signal.SIGKILL)\n    return 0",
    "a process left behind": """
import json, os, time
if os.fork() == 0:
    for _ in range(20):
        for fd in range(3, 64):
            try: os.write(fd, b'{"ok": true, "marker": "", "args": {"l": []}}\\n')
            except OSError: pass
        time.sleep(0.01)
    os._exit(0)
def f(n): return 0
""",
    "an exception that tests may swallow": "class E(BaseException): pass\ndef f(n): raise E()",
    "the main module patched": "def f(n):\n    import __main__\n    __main__.candidate = f\n    return NotImplemented",
}

CLASS = {  # of a unittest class TestCases
    "the loader patched": """
import unittest
unittest.TestLoader.loadTestsFromTestCase = lambda self, case: unittest.TestSuite()
def f(n): return 0
""",
    "the case's run patched": """
import unittest
unittest.TestCase.run = lambda self, result=None: result
def f(n): return 0
""",
    "assertEqual patched when called": """
def f(n):
    import unittest
    unittest.TestCase.assertEqual = lambda *a, **k: None
    return 0
""",
    "assertEqual patched without its name": """
import sys
def f(n):
    getattr(sys, "mod" + "ules")["unit" + "test"].TestCase.assertEqual = lambda *a, **k: None
    return 0
""",
    "an object that equals everything": """
class Anything:
    def __eq__(self, other): return True
def f(n): return Anything()
""",
    "an equality that is attached later": """
class Anything: pass
setattr(Anything, "__e" + "q__", lambda self, other: True)
def f(n): return Anything()
""",
    "the tests skipped": """
import sys
def f(n):
    skip = [v for k, v in vars(sys)["modules"].items() if k == "unittest"][0].SkipTest
    raise skip("no")
""",
    "early exit": "import os\ndef f(n): os._exit(0)",
    "the result emptied": """
import gc
def f(n):
    for thing in gc.get_objects():
        if type(thing).__name__ == "TestResult": thing.failures = thing.errors = []
    return 0
""",
}

PROGRAM = {  # for standard input: reads n, prints 3 n + 1
    "nothing printed": "import sys; sys.exit(0)",
    "the expected output looked for": """
import sys
frame, found = sys._getframe(), ""
while frame:
    for value in frame.f_locals.values():
        if isinstance(value, dict) and "outputs" in value: found = value["outputs"]
    frame = frame.f_back
import builtins
for line in found or ["0"]: print(line, end="")
""",
    "the expected output read from files": """
import glob
for name in glob.glob("/run/**/*", recursive=True) + glob.glob("/tmp/*") + glob.glob("/proc/[0-9]*/environ"):
    try: print(open(name, errors="replace").read())
    except OSError: pass
""",
    "the stand-in patched": """
import sys
class Anything(str):
    def __eq__(self, other): return True
    def strip(self, *a): return Anything()
    def split(self, *a): return [Anything()]
if hasattr(sys.stdout, "getvalue"): sys.stdout.getvalue = lambda: Anything()
print(0)
""",
}
