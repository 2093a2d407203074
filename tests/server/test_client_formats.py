"""Tools and JSON schema through other people's clients: what comes out is what the engine writes of what reached it.

Each client spells its schema and its tools in its own way, so the text is compared with `Engine.generate` of the request that
the server made of them, and judged by the schema that was asked for. A server of a fixed string never reaches the engine.
"""

import asyncio
import json
from typing import Literal

import jsonschema
import pytest
from pydantic import BaseModel
from test_clients import HOT, PROMPT, SEEDS, fewer_warnings, need  # noqa: F401  # a fixture

from mezzotint.constraint.formats import JsonSchema, ToolCall, parse_call

LENGTH = 80
MESSAGES = [{"role": "user", "content": PROMPT}]
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages


class Pet(BaseModel):
    """A pet that Mia has."""

    kind: Literal["cat", "dog", "Pferd 🐴"]
    legs: Literal[2, 4]
    glad: bool


SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["kind", "legs", "glad"],
    "properties": {
        "kind": {"enum": ["cat", "dog", "Pferd 🐴"]}, "legs": {"enum": [2, 4]}, "glad": {"type": "boolean"},
    },
}  # fmt: skip
NAMED = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA, "strict": True}}
TOOL = {"type": "function", "function": {"name": "find_pet", "description": "Find it", "parameters": SCHEMA}}
FORCED = {"type": "function", "function": {"name": "find_pet"}}


@pytest.fixture
def said(engine):
    """What the engine writes of the last request that reached it, whose seed and format are as they were asked for."""

    def text(seed, kind):
        request = engine.asked[-1]
        assert request.seed == seed and isinstance(request.format, kind) and request.temperature == HOT
        written = engine.generate(request)[0].text
        engine.asked.clear()
        return written

    engine.asked.clear()
    return text


def check(value):
    """A value of the schema."""
    jsonschema.validate(value, SCHEMA)
    return value


def called(text):
    """Arguments of the call that the engine wrote."""
    name, arguments = parse_call(text)
    assert name == "find_pet"
    return json.loads(arguments)


def differ(found):
    """Other seeds gave other values: nothing is fixed."""
    assert len({json.dumps(value, sort_keys=True) for value in found}) > 1


SEVERAL = (*SEEDS, 5, 6)


def test_openai(base, said):
    client = need("openai").OpenAI(base_url=f"{base}/v1", api_key="-", max_retries=0)
    values, calls = [], []
    for seed in SEVERAL:
        chat = {
            "model": "tiny",
            "seed": seed,
            "temperature": HOT,
            "messages": MESSAGES,
            "max_completion_tokens": LENGTH,
        }
        parsed = client.chat.completions.parse(**chat, response_format=Pet).choices[0].message.parsed
        assert parsed.model_dump() == json.loads(said(seed, JsonSchema))
        values.append(check(parsed.model_dump()))
        call = client.chat.completions.create(**chat, tools=[TOOL], tool_choice=FORCED).choices[0].message.tool_calls[0]
        calls.append(check(json.loads(call.function.arguments)))
        assert calls[-1] == called(said(seed, ToolCall))
    differ(values)
    differ(calls)


def test_litellm(base, said, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch prices
    litellm = need("litellm")
    litellm.suppress_debug_info = True
    values = []
    for seed in SEVERAL:
        chat = {
            "api_base": f"{base}/v1", "api_key": "-", "temperature": HOT, "num_retries": 0, "model": "openai/tiny",
            "messages": MESSAGES, "max_tokens": LENGTH, "extra_body": {"seed": seed},
        }  # fmt: skip
        text = litellm.completion(**chat, response_format=NAMED).choices[0].message.content
        assert text == said(seed, JsonSchema)
        values.append(check(json.loads(text)))
        call = litellm.completion(**chat, tools=[TOOL], tool_choice=FORCED).choices[0].message.tool_calls[0]
        assert check(json.loads(call.function.arguments)) == called(said(seed, ToolCall))
    differ(values)


def test_langchain(base, said):
    langchain = need("langchain_openai")
    values = []
    for seed in SEVERAL:
        chat = langchain.ChatOpenAI(
            base_url=f"{base}/v1",
            api_key="-",
            model="tiny",
            temperature=HOT,
            max_retries=0,
            seed=seed,
            max_tokens=LENGTH,
        )
        got = chat.with_structured_output(Pet, method="json_schema").invoke(PROMPT)
        assert got.model_dump() == json.loads(said(seed, JsonSchema))
        values.append(got.model_dump())
        call = chat.bind_tools([TOOL], tool_choice="find_pet").invoke(PROMPT).tool_calls[0]
        assert call["name"] == "find_pet" and check(call["args"]) == called(said(seed, ToolCall))
    differ(values)


def test_inceptionai(base, said):
    inception = need("inceptionai")
    kind = next(getattr(inception, name) for name in ("Inception", "InceptionAI", "Client") if hasattr(inception, name))
    client = kind(base_url=base, api_key="-", max_retries=0)
    values = []
    for seed in SEVERAL:
        chat = {
            "model": "tiny", "messages": MESSAGES, "max_tokens": LENGTH, "temperature": HOT, "extra_body": {"seed": seed},
        }  # fmt: skip
        text = client.chat.completions.create(**chat, response_format=NAMED).choices[0].message.content
        assert text == said(seed, JsonSchema)
        values.append(check(json.loads(text)))
        done = client.chat.completions.create(**chat, tools=[TOOL], tool_choice="required")
        call = done.choices[0].message.tool_calls[0]
        assert check(json.loads(call.function.arguments)) == called(said(seed, ToolCall))
    differ(values)


def test_llm(base, said, engine, tmp_path, monkeypatch):
    """Its tools are offered, never forced: an answer in text is the engine's, too."""
    llm = need("llm")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    (tmp_path / "extra-openai-models.yaml").write_text(
        f'- model_id: mine\n  model_name: tiny\n  api_base: "{base}/v1"\n  api_key_name: none\n'
        "  supports_schema: true\n  supports_tools: true\n"
    )
    (tmp_path / "keys.json").write_text('{"none": "-"}')
    model = llm.get_model("mine")
    values = []
    for seed in SEVERAL:
        asked = {"temperature": HOT, "seed": seed, "max_tokens": LENGTH, "key": "-", "stream": False}
        text = model.prompt(PROMPT, schema=SCHEMA, **asked).text()
        assert text == said(seed, JsonSchema)
        values.append(check(json.loads(text)))
    differ(values)


def test_pydantic_ai(base, said):
    need("pydantic_ai")
    from pydantic_ai import Agent, NativeOutput, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=f"{base}/v1", api_key="-"))

    async def ask(seed, output):
        agent = Agent(
            model, output_type=output, model_settings={"seed": seed, "temperature": HOT, "max_tokens": LENGTH}
        )
        return (await agent.run(PROMPT)).output.model_dump()

    values = []
    for seed in SEVERAL:
        values.append(asyncio.run(ask(seed, NativeOutput(Pet))))
        assert values[-1] == json.loads(said(seed, JsonSchema))
        call = asyncio.run(ask(seed, ToolOutput(Pet, name="find_pet")))
        assert check(call) == called(said(seed, ToolCall))
    differ(values)


def test_llama_index(base, said):
    need("llama_index.llms.openai_like")
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    def find_pet(kind: Literal["cat", "dog", "Pferd 🐴"], legs: Literal[2, 4], glad: bool) -> str:
        """Find it."""
        return kind

    values = []
    for seed in SEVERAL:
        told = {
            "model": "tiny", "api_base": f"{base}/v1", "api_key": "-", "max_tokens": LENGTH, "temperature": HOT,
            "max_retries": 0, "is_chat_model": True,
        }  # fmt: skip
        plain = OpenAILike(**told, additional_kwargs={"seed": seed, "response_format": NAMED})
        text = plain.complete(PROMPT).text
        assert text == said(seed, JsonSchema)
        values.append(check(json.loads(text)))
        caller = OpenAILike(**told, is_function_calling_model=True, additional_kwargs={"seed": seed})
        answer = caller.chat_with_tools([FunctionTool.from_defaults(find_pet)], user_msg=PROMPT, tool_required=True)
        call = caller.get_tool_calls_from_response(answer)[0]
        assert call.tool_name == "find_pet" and check(call.tool_kwargs) == called(said(seed, ToolCall))
    differ(values)
