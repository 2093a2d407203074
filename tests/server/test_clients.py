"""Other people's clients, by their own packages over a real socket: the text is the engine's at the same seed.

A server that answers a fixed string fails: every cell asks with two seeds, and gets two texts. Those that are not installed
are skipped: scripts/clients.sh installs them, best in an environment of their own. The table of clients and features is in
docs/guides/server.md; tools and JSON schema are in test_client_formats.py, those that are not of Python in
test_other_clients.py. MEZZOTINT_TEST_MODEL=default drives the default model instead of tiny.
"""

import asyncio
import sys
import warnings
from functools import cache

import pytest

import mezzotint as mz
from mezzotint.server.codes import CONTINUE

PROMPT, LENGTH = "Mia has", 12
SEEDS = (3, 4)
PREFIX, SUFFIX = "Mia has ", " ball."
MESSAGES = [{"role": "user", "content": PROMPT}]
HOT = 0.9
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's packages


@pytest.fixture(autouse=True)
def fewer_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def own(engine):
    """Text of a seed: a chat's answer, or, raw, what continues the prompt."""

    @cache
    def text(seed, raw=engine.tokenizer.chat_template is None):
        return engine.generate(mz.Request(PROMPT, raw=raw, max_tokens=LENGTH, temperature=HOT, seed=seed))[0].text

    assert text(SEEDS[0]) != text(SEEDS[1])
    return text


@pytest.fixture(scope="module")
def filled(engine):
    return [
        mz.infill(engine, f"{PREFIX}[[ ]]{SUFFIX}", seed=seed, temperature=HOT, max_length=6).holes[0].text
        for seed in SEEDS
    ]


def need(name):
    """A package, or the reason why it is skipped. One that only warns while it is imported is there."""
    try:
        __import__(name)
    except ImportError as error:
        pytest.skip(f"{name} cannot be imported ({error}): bash scripts/clients.sh")
    return sys.modules[name]


def test_openai(base, own, filled):
    client = need("openai").OpenAI(base_url=f"{base}/v1", api_key="-", max_retries=0)
    for seed, hole in zip(SEEDS, filled, strict=True):
        told = {"model": "tiny", "seed": seed, "temperature": HOT}
        chat = {**told, "messages": MESSAGES, "max_completion_tokens": LENGTH}
        assert client.chat.completions.create(**chat).choices[0].message.content == own(seed)
        chunks = client.chat.completions.create(**chat, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == own(seed)
        fim = client.completions.create(**told, prompt=PREFIX, suffix=SUFFIX, max_tokens=6)
        assert fim.choices[0].text == hole
        answer = client.responses.create(
            model="tiny", input=PROMPT, max_output_tokens=LENGTH, temperature=HOT, extra_body={"seed": seed}
        )
        assert answer.output_text == own(seed)


def test_litellm(base, own, filled, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch prices
    litellm = need("litellm")
    litellm.suppress_debug_info = True
    for seed, hole in zip(SEEDS, filled, strict=True):
        told = {"api_base": f"{base}/v1", "api_key": "-", "temperature": HOT, "num_retries": 0}
        for model in ("openai/tiny", "inception/tiny"):
            chat = {**told, "model": model, "messages": MESSAGES, "max_tokens": LENGTH, "extra_body": {"seed": seed}}
            assert litellm.completion(**chat).choices[0].message.content == own(seed)
            chunks = litellm.completion(**chat, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == own(seed)
        shown = litellm.completion(
            **{**chat, "extra_body": {"seed": seed, "diffusing": True, "decode": "verified"}}, stream=True
        )
        texts = [chunk.choices[0].delta.content for chunk in shown if chunk.choices[0].delta.content]
        assert texts[-1] == own(seed) and len(texts) > 1
        del told["temperature"]  # which it does not send for this
        fim = litellm.text_completion(
            **told,
            model="text-completion-inception/tiny",
            prompt=PREFIX,
            suffix=SUFFIX,
            max_tokens=6,
            extra_body={"seed": seed, "temperature": HOT},
        )
        assert fim.choices[0].text == hole


def test_langchain(base, own):
    langchain = need("langchain_openai")
    told = {"base_url": f"{base}/v1", "api_key": "-", "model": "tiny", "temperature": HOT, "max_retries": 0}
    for seed in SEEDS:
        chat = langchain.ChatOpenAI(**told, seed=seed, max_tokens=LENGTH)
        assert chat.invoke(PROMPT).content == own(seed)
        assert "".join(chunk.content for chunk in chat.stream(PROMPT)) == own(seed)
        text = langchain.OpenAI(**told, seed=seed, max_tokens=LENGTH)
        assert text.invoke(PROMPT) == own(seed, True)
    vectors = langchain.OpenAIEmbeddings(
        base_url=f"{base}/v1", api_key="-", model="tiny", check_embedding_ctx_length=False
    ).embed_documents(["Mia has a dog", "The blue horses"])
    assert len(vectors) == 2 and vectors[0] != vectors[1]


def test_inceptionai(base, own, filled, engine):
    inception = need("inceptionai")
    kind = next(getattr(inception, name) for name in ("Inception", "InceptionAI", "Client") if hasattr(inception, name))
    client = kind(base_url=base, api_key="-", max_retries=0)
    for seed, hole in zip(SEEDS, filled, strict=True):
        chat = {
            "model": "tiny",
            "messages": MESSAGES,
            "max_tokens": LENGTH,
            "temperature": HOT,
            "extra_body": {"seed": seed},
        }
        assert client.chat.completions.create(**chat).choices[0].message.content == own(seed)
        chunks = client.chat.completions.create(**chat, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == own(seed)
        shown = client.chat.completions.create(**chat, stream=True, diffusing=True)
        assert [c.choices[0].delta.content for c in shown if c.choices[0].delta.content][-1] == own(seed)
        fim = client.fim.completions.create(
            model="tiny", prompt=PREFIX, suffix=SUFFIX, max_tokens=6, extra_body={"seed": seed, "temperature": HOT}
        )
        assert fim.choices[0].text == hole
    content = (
        "<|current_file_content|>\ncurrent_file_path: a\n<|code_to_edit|>\nThe blue horses wait in seven<|cursor|> garden.\n"
        "<|/code_to_edit|>\n<|/current_file_content|>\n<|edit_diff_history|>\n<|/edit_diff_history|>"
    )
    for seed in SEEDS:
        edit = client.edit.completions.create(
            model="tiny", messages=[{"role": "user", "content": content}], extra_body={"seed": seed}
        )
        alone = mz.revise(engine, "The blue horses wait in seven garden.", CONTINUE, seed=seed).after
        assert edit.choices[0].message.content == f"```\n{alone}\n```"
    questions = {
        "glad": {"type": "noul", "instructions": "Is Mia glad?"},
        "pet": {"type": "choice", "criteria": {"dog": None, "cat": "it purrs"}},
        "size": {"type": "score", "criteria": ["small", "big"]},
    }  # fmt: skip
    answers = client.decisions.create(model="tiny", state="Mia has a dog.", questions=questions).answers
    assert 0 < answers["glad"].noul < 1 and set(answers["pet"].probabilities) == {"dog", "cat"}
    assert answers["size"].legend == {"0": "small", "1": "big"}


def test_llm(base, own, tmp_path, monkeypatch):
    llm = need("llm")
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    (tmp_path / "extra-openai-models.yaml").write_text(
        f'- model_id: mine\n  model_name: tiny\n  api_base: "{base}/v1"\n  api_key_name: none\n'
    )
    (tmp_path / "keys.json").write_text('{"none": "-"}')
    model = llm.get_model("mine")
    for seed in SEEDS:
        asked = {"temperature": HOT, "seed": seed, "max_tokens": LENGTH, "key": "-"}
        assert model.prompt(PROMPT, stream=False, **asked).text() == own(seed)
        assert "".join(model.prompt(PROMPT, stream=True, **asked)) == own(seed)


def test_pydantic_ai(base, own):
    need("pydantic_ai")
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def ask(seed):
        model = OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=f"{base}/v1", api_key="-"))
        agent = Agent(model, model_settings={"seed": seed, "temperature": HOT, "max_tokens": LENGTH})
        whole = (await agent.run(PROMPT)).output
        async with agent.run_stream(PROMPT) as stream:
            return whole, await stream.get_output()

    for seed in SEEDS:
        assert asyncio.run(ask(seed)) == (own(seed), own(seed))


def test_llama_index(base, own):
    need("llama_index.llms.openai_like")
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    for seed in SEEDS:
        told = {
            "model": "tiny", "api_base": f"{base}/v1", "api_key": "-", "max_tokens": LENGTH, "temperature": HOT,
            "additional_kwargs": {"seed": seed}, "max_retries": 0,
        }  # fmt: skip
        chat = OpenAILike(**told, is_chat_model=True)
        messages = [ChatMessage(role="user", content=PROMPT)]
        assert chat.chat(messages).message.content == own(seed)
        assert [piece.message.content for piece in chat.stream_chat(messages)][-1] == own(seed)
        assert OpenAILike(**told, is_chat_model=False).complete(PROMPT).text == own(seed, True)
