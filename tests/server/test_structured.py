"""Schemas and tools through OpenAI's own client: valid answers, the engine's own texts, calls whole and in pieces."""

import json

import httpx
import jsonschema
import openai
import pytest

import mezzotint as mz

SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["name", "age", "pets"],
    "properties": {
        "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "pets": {"type": "array", "items": {"enum": ["cat", "Hündin"]}, "maxItems": 2},
    },
}  # fmt: skip
NAMED = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
MESSAGES = [{"role": "user", "content": "Mia is"}]
TOOLS = [
    {"type": "function", "function": {"name": "find_pet", "description": "Find it", "parameters": {
        "type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}, "n": {"type": "integer"}}, "required": ["kind"]}}},
    {"type": "function", "function": {"name": "stop"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def client(base):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


def ask(client, **more):
    return client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 80, "seed": 4} | more)


@pytest.mark.parametrize("decode", ["ar", "verified", "diffusion"])
def test_a_schema_is_followed_and_the_text_is_the_engines(client, engine, decode):
    answer = ask(client, response_format=NAMED, extra_body={"decode": decode}).choices[0]
    text = answer.message.content
    jsonschema.validate(json.loads(text), SCHEMA)
    request = mz.Request("Mia is", raw=True, decode=decode, max_tokens=80, seed=4, format=mz.JsonSchema(SCHEMA))
    assert text == engine.generate(request)[0].text
    chunks = ask(client, response_format=NAMED, stream=True, extra_body={"decode": decode})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text


def test_a_pydantic_model_is_parsed(client):
    from pydantic import BaseModel

    class Pet(BaseModel):
        name: str
        legs: int

    parsed = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, max_tokens=60, response_format=Pet, temperature=1.0, seed=2
    )  # fmt: skip
    assert isinstance(parsed.choices[0].message.parsed, Pet)


def test_a_json_object_is_any_object(client):
    for seed in range(3):
        answer = ask(client, response_format={"type": "json_object"}, seed=seed, temperature=1.0)
        assert isinstance(json.loads(answer.choices[0].message.content), dict)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "find_pet"}}])
def test_a_forced_tool_is_called(client, choice):
    answer = ask(client, tools=TOOLS, tool_choice=choice).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    call = answer.message.tool_calls[0]
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {"type": "object"}) for tool in TOOLS}
    assert call.type == "function" and call.id and (choice == "required" or call.function.name == "find_pet")
    jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])

    deltas, reason = [], None
    for chunk in ask(client, tools=TOOLS, tool_choice=choice, stream=True):
        deltas += chunk.choices[0].delta.tool_calls or []
        reason = chunk.choices[0].finish_reason or reason
        assert not chunk.choices[0].delta.content
    assert reason == "tool_calls" and deltas[0].id and deltas[0].function.name == call.function.name
    assert all(delta.index == 0 and delta.id is None and delta.function.name is None for delta in deltas[1:])
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments


def test_offered_tools_may_be_left_alone(client):
    answer = ask(client, tools=TOOLS).choices[0]
    assert answer.message.content and not answer.message.tool_calls and answer.finish_reason in ("stop", "length")
    text = "".join(c.choices[0].delta.content or "" for c in ask(client, tools=TOOLS, stream=True))
    assert text == answer.message.content
    unsupported = [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]
    left = ask(client, tools=unsupported)
    assert left.choices[0].message.content and "not (at #)" in left.warning
    assert ask(client, tools=TOOLS, tool_choice="none").choices[0].message.content


def test_earlier_calls_are_read(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "find_pet", "arguments": '{"kind": "cat"}'}}
    told = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
    ]
    assert ask(client, messages=told, tools=TOOLS).choices[0].message.content is not None


def test_an_offered_tool_is_called_when_the_model_does(engine):
    from mezzotint.constraint.formats import ToolCall
    from mezzotint.server.tools import Deltas, message

    asked = ToolCall(
        {"f": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}}, required=False
    )
    said = '<tool_call>\n{"name": "f", "arguments": {"q": "a } b"}}\n</tool_call>'
    assert asked.automaton.accepts(said)
    whole, reason = message(said, "stop", asked)
    assert reason == "tool_calls" and whole["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"q": "a } b"}'}
    for size in (1, 3, 7, 100):
        deltas, speak = [], Deltas(asked)
        pieces = [said[n : n + size] for n in range(0, len(said), size)]
        for n, piece in enumerate(pieces):
            deltas += speak.push(piece, n == len(pieces) - 1)
        calls = [delta["tool_calls"][0]["function"] for delta in deltas]
        assert calls[0]["name"] == "f" and "".join(call["arguments"] for call in calls) == '{"q": "a } b"}'
        assert speak.reason("stop") == "tool_calls"
    speak = Deltas(asked)
    assert [d for piece in ("<tool", "box", ">") for d in speak.push(piece)] == [
        {"content": "<toolbox"},
        {"content": ">"},
    ]


def schema_format(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


REFUSED = [
    (schema_format({"type": "array", "uniqueItems": True}), "uniqueItems (at #)", "response_format"),
    (schema_format({"type": "strin"}), "type", "response_format"),
    ({"response_format": {"type": "json_schema"}}, "json_schema.schema", "response_format"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "none"}}}, "none of the tools", "tool_choice"),
    ({"tool_choice": "required"}, "no tools", "tool_choice"),
    ({"tools": [TOOLS[0], TOOLS[0]], "tool_choice": "required"}, "one name", "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}], "tool_choice": "required"},
     "not (at #)", "tools"),
    ({"response_format": NAMED, "max_tokens": 3}, "shortest answer", "max_tokens"),
    ({"response_format": {"type": "xml"}}, "text", "response_format.type"),
]  # fmt: skip


@pytest.mark.parametrize("more, words, param", REFUSED)
def test_what_cannot_be_followed_is_named(base, more, words, param):
    answer = httpx.post(f"{base}/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 40} | more)
    error = answer.json()["error"]
    assert answer.status_code == 400 and words in error["message"] and error["param"] == param


def test_a_chat_template_is_told_of_the_tools(engine):
    from mezzotint.constraint.formats import ToolCall
    from mezzotint.server.tools import Tool, told

    tools = [Tool.model_validate(tool) for tool in TOOLS]
    asked = ToolCall({"find_pet": {}}, required=True)
    first = told([{"role": "system", "content": "Be kind."}, *MESSAGES], asked, tools)[0]
    assert first["content"].startswith("Be kind.") and "find_pet" in first["content"] and "stop" not in first["content"]
    assert [message["role"] for message in told(MESSAGES, asked, tools)] == ["system", "user"]
    assert told(MESSAGES, None, tools) == MESSAGES


def test_a_format_with_what_would_bend_it_is_a_400(base):
    body = {"messages": MESSAGES, "max_tokens": 40, "response_format": {"type": "json_object"}}
    for more in ({"top_p": 0.5, "temperature": 1}, {"presence_penalty": 1}, {"logprobs": True}, {"deadline_ms": 500}):
        answer = httpx.post(f"{base}/v1/chat/completions", json=body | more)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "response_format", answer.text
