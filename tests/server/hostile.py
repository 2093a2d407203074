"""The pages of hostile.js. Each says its name when it starts to try; one that sees what it should not says ESCAPED."""

import json
import re
from pathlib import Path

TEXT = Path(__file__).with_name("hostile.js").read_text(encoding="utf-8")
SCRIPTS = dict(re.findall(r"^// == ([^\n]+)\n(.*?)(?=\n// == |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PAGE = """<!doctype html>
<html>
<head><title>hostile</title></head>
<body>
<script>
const [API, SINK, DATAGRAMS] = {places};
const out = (what) => console.log("ESCAPED: " + what);
const quiet = (work) => {{ try {{ work(); }} catch (error) {{ console.log("held: " + error.name); }} }};
console.log({name});
{script}
</script>
</body>
</html>
"""


def page(name: str, api: str, sink: str, datagrams: str) -> str:
    return PAGE.format(
        places=json.dumps([api, sink, datagrams]), name=json.dumps(f"trying {name}"), script=SCRIPTS[name]
    )  # fmt: skip
