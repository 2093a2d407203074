"""The endpoints of other people's clients: fill-in-the-middle in every dialect, Mercury's edits, llama.cpp's infill, responses,
decisions, tokens, embeddings. What is written is what the library writes itself."""

import base64
import json
import math
import struct

import httpx
import openai
import pytest
import torch

import mezzotint as mz
from mezzotint.server.fim import split

PREFIX, SUFFIX = "Mia has ", " ball."
DIALECTS = {
    "codellama": f"<PRE> {PREFIX} <SUF>{SUFFIX} <MID>",
    "starcoder": f"<fim_prefix>{PREFIX}<fim_suffix>{SUFFIX}<fim_middle>",
    "suffix first": f"<fim_suffix>{SUFFIX}<fim_prefix>{PREFIX}<fim_middle>",
    "deepseek": f"<｜fim▁begin｜>{PREFIX}<｜fim▁hole｜>{SUFFIX}<｜fim▁end｜>",  # noqa: RUF001  # its own bars
    "qwen": f"<|fim_prefix|>{PREFIX}<|fim_suffix|>{SUFFIX}<|fim_middle|>",
    "codestral": f"[SUFFIX]{SUFFIX}[PREFIX]{PREFIX}",
    "glm": f"<|code_prefix|>{PREFIX}<|code_suffix|>{SUFFIX}<|code_middle|>",
}
ZED = {"max_tokens": 6, "temperature": 0.0, "stop": ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]}
FILE = "The dog runs.\nThe blue horses wait in seven garden.\nIt is her best hat.\n"


@pytest.fixture(scope="module")
def client(base):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def filled(engine):
    return mz.infill(engine, f"{PREFIX}[[ ]]{SUFFIX}", seed=2, max_length=6).holes[0]


def post(base, path, body, status=200):
    answer = httpx.post(base + path, json=body, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


# -- fill in the middle ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", DIALECTS.values(), ids=DIALECTS)
def test_sentinels_of_every_dialect_are_understood(base, filled, prompt):
    assert split(prompt) == (PREFIX, SUFFIX)
    told = post(base, "/v1/completions", {"model": "tiny", "prompt": prompt, "seed": 2, **ZED})
    assert told["choices"][0]["text"] == filled.text


def test_text_that_merely_holds_sentinels_is_text(base, engine):
    for prompt in ("Mia <fim_prefix> has", "say <PRE> x <SUF>y <MID>", "[PREFIX]a", "<fim_prefix>a<fim_middle>"):
        assert split(prompt) is None
    assert split("<fim_prefix>a\nb<fim_suffix><fim_middle>") == ("a\nb", "")
    told = post(base, "/v1/completions", {"prompt": "<fim_prefix>Mia has<fim_suffix><fim_middle>", "max_tokens": 8})
    wanted = engine.generate(mz.Request("Mia has", raw=True, max_tokens=8))[0].text
    assert told["choices"][0]["text"] == wanted  # nothing comes after: it is continued


def test_mercurys_fim(base, filled):
    body = {"model": "tiny", "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 6, "seed": 2, "presence_penalty": 1.5}
    told = post(base, "/v1/fim/completions", body)
    assert told["object"] == "text_completion" and told["choices"][0]["text"] == filled.text
    lines = httpx.post(f"{base}/v1/fim/completions", json={**body, "stream": True}, timeout=60).text.split("\n\n")
    assert json.loads(lines[0][6:])["choices"][0]["text"] == filled.text and lines[-2] == "data: [DONE]"
    post(base, "/v1/fim/completions", {**body, "prompt": ["a", "b"]}, 400)


def test_a_blank_line_ends_mercurys_fim_unless_told_otherwise(base, engine, monkeypatch):
    from mezzotint.server.fim import Fim

    assert Fim(prompt=["a"]).stop == ["\n\n"] and Fim(prompt=["a"], stop=None).stop == ["\n\n"]
    assert Fim(prompt=["a"], stop=[]).stop == [] and Fim(prompt=["a"], stop="x").stop == ["x"]


@pytest.mark.parametrize("path", ["/v1/infill", "/infill"])
def test_llama_cpps_infill(base, engine, filled, path):
    body = {
        "input_prefix": PREFIX,
        "input_suffix": SUFFIX,
        "n_predict": 6,
        "seed": 2,
        "cache_prompt": True,
        "top_k": 40,
    }
    told = post(base, path, body)
    assert told["content"] == filled.text and told["tokens_predicted"] == filled.length and told["stop"] is True
    extra = {"input_extra": [{"filename": "a.txt", "text": "The dog runs."}]}
    wanted = mz.infill(engine, f"a.txt\nThe dog runs.\n{PREFIX}[[ ]]{SUFFIX}", seed=2, max_length=6).holes[0].text
    assert post(base, path, {**body, **extra})["content"] == wanted
    begun = mz.infill(engine, f"{PREFIX}a [[ ]]{SUFFIX}", seed=2, max_length=6).holes[0].text
    assert post(base, path, {**body, "prompt": "a "})["content"] == begun
    plain = engine.generate(mz.Request("Mia has", raw=True, max_tokens=6, seed=2))[0].text
    assert post(base, path, {**body, "input_prefix": "Mia has", "input_suffix": ""})["content"] == plain
    assert post(base, path, {**body, "n_predict": 0})["content"] == ""
    streamed = httpx.post(base + path, json={**body, "stream": True}, timeout=60).text
    assert json.loads(streamed.removeprefix("data: "))["content"] == filled.text
    post(base, path, {**body, "input_prefix": "", "input_suffix": ""}, 400)
    post(base, path, {"input_prefix": "a"}, 400)


# -- code edited in Mercury's formats ----------------------------------------------------------------------------------


def next_edit(cursor=True):
    head, region, tail = FILE.split("\n")[:3]
    region = region[:9] + "<|cursor|>" * cursor + region[9:]
    content = (
        "<|recently_viewed_code_snippets|>\n<|/recently_viewed_code_snippets|>\n<|current_file_content|>\n"
        f"current_file_path: a.txt\n{head}\n<|code_to_edit|>\n{region}\n<|/code_to_edit|>\n{tail}\n\n<|/current_file_content|>\n"
        "<|edit_diff_history|>\n<|/edit_diff_history|>\n"
    )
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "seed": 1}


def test_mercurys_next_edit(base, engine):
    start = FILE.index("The blue")
    end = FILE.index("\n", start)
    wanted = mz.revise(engine, FILE, locks=[(0, start), (end, len(FILE))], seed=1, instruction="x").after
    wanted = wanted[start : len(wanted) - (len(FILE) - end)]
    for cursor in (True, False):
        told = post(base, "/v1/edit/completions", next_edit(cursor))
        assert told["object"] == "edit.completion" and told["choices"][0]["finish_reason"] == "stop"
        assert told["choices"][0]["message"]["content"] == f"```\n{wanted}\n```"
    assert wanted != FILE[start:end] and "\n" not in wanted


def test_mercurys_apply(base, engine):
    def body(original, snippet):
        content = (
            f"<|original_code|>\n{original}\n<|/original_code|>\n\n<|update_snippet|>\n{snippet}\n<|/update_snippet|>"
        )
        return {"model": "tiny", "messages": [{"role": "user", "content": content}], "seed": 1, "max_tokens": 4096}

    told = post(base, "/v1/apply/completions", body("a = 1\nb = 2\nc = 3\n", "# ... existing code ...\nb = 5\nc = 3"))
    assert told["choices"][0]["message"]["content"] == "a = 1\nb = 5\nc = 3\n"
    assert told["object"] == "apply.completion" and told["usage"]["diffusion"]["calls"] == 0
    told = post(base, "/v1/apply/completions", body(FILE, "Please fix it!"))  # no snippet: an instruction
    assert told["choices"][0]["message"]["content"] == mz.revise(engine, FILE, "Please fix it!", seed=1).after
    assert told["usage"]["diffusion"]["calls"] > 0


@pytest.mark.parametrize("path", ["edit", "apply"])
def test_an_edit_without_its_tags_is_refused(base, path):
    def refused(**body):
        return post(base, f"/v1/{path}/completions", body, 400)["error"]

    assert "<|" in refused(messages=[{"role": "user", "content": "hello"}])["message"]
    assert refused(messages=[{"role": "user", "content": "a"}] * 2)["param"] == "messages"
    assert refused(messages=[{"role": "system", "content": "a"}])["param"] == "messages[0].role"
    assert refused(messages=[{"role": "user", "content": "a"}], stream=True)["param"] == "stream"


# -- responses ---------------------------------------------------------------------------------------------------------


def test_responses_whole_and_as_events(client, engine):
    told = {"model": "tiny", "input": "Mia has", "max_output_tokens": 12, "extra_body": {"seed": 3}}
    wanted = engine.generate(mz.Request("Mia has", raw=True, max_tokens=12, seed=3))[0]
    whole = client.responses.create(**told)
    assert whole.output_text == wanted.text and whole.status == "incomplete"
    assert whole.incomplete_details.reason == "max_output_tokens" and whole.usage.output_tokens == len(wanted.ids)
    events = list(client.responses.create(**told, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == wanted.text
    assert [e.sequence_number for e in events] == list(range(len(events)))
    kinds = [e.type.removeprefix("response.") for e in events if not e.type.endswith("delta")]
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done",
        "output_item.done", "incomplete",
    ]  # fmt: skip
    assert events[-1].response.output_text == wanted.text
    with client.responses.stream(**told) as stream:
        assert stream.get_final_response().output_text == wanted.text if kinds[-1] == "completed" else list(stream)


def test_responses_take_messages_and_instructions(client, base, engine):
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Mia has"}]}]
    wanted = engine.generate(mz.Request("Be brief.\nMia has", raw=True, max_tokens=8, seed=3))[0].text
    told = client.responses.create(
        model="tiny", input=items, instructions="Be brief.", max_output_tokens=8, extra_body={"seed": 3}
    )
    assert told.output_text == wanted
    raw = httpx.post(f"{base}/v1/responses", json={"input": "Mia has", "stream": True, "max_output_tokens": 4}).text
    first = raw.split("\n\n")[0].split("\n")
    assert first[0] == "event: response.created" and json.loads(first[1][6:])["type"] == "response.created"
    assert "[DONE]" not in raw
    for wrong, param in (
        ({"previous_response_id": "x"}, "previous_response_id"), ({"background": True}, "background"), ({"n": 2}, "n"),
        ({"text": {"format": {"type": "json_object"}}}, "text.format.type"), ({"input": []}, "input"), ({"input": 5}, "input"),
    ):  # fmt: skip
        error = post(base, "/v1/responses", {"input": "a", **wrong}, 400)["error"]
        assert error["param"].startswith(param)


def test_a_chats_own_fields_mean_nothing_in_a_response(base, engine):
    body = {
        "input": "Mia has",
        "max_output_tokens": 8,
        "seed": 3,
        "messages": -1,
        "logprobs": "x",
        "max_completion_tokens": 1,
    }
    told = post(base, "/v1/responses", body)
    wanted = engine.generate(mz.Request("Mia has", raw=True, max_tokens=8, seed=3))[0].text
    assert told["output"][0]["content"][0]["text"] == wanted and "messages" in told["warning"]


def test_an_earlier_deadline_ends_a_response(base):
    body = {"input": "Mia has", "max_output_tokens": 400, "deadline_ms": 1}
    told = httpx.post(f"{base}/v1/responses", json=body, timeout=30)
    assert told.status_code in (200, 504)


# -- decisions ---------------------------------------------------------------------------------------------------------


QUESTIONS = {
    "happy": {"type": "noul", "instructions": "Is Mia happy?", "criteria": {"true": "she laughs"}},
    "animal": {"type": "choice", "criteria": {"dog": "it barks", "cat": None, "7": {"legs": 2}}},
    "size": {"type": "score", "instructions": ["how", "big"], "criteria": ["small", "middle", "big"]},
}


def alone(engine, text, labels):
    """The same chances by reading the whole text anew behind every label."""
    nats = []
    with torch.inference_mode():
        before = engine.tokenizer.encode(text + "\nAnswer:")
        for label in labels:
            ids = engine.tokenizer.encode(" " + label)
            cache = engine.denoiser.new_cache(1, 512)
            row = torch.tensor([before + ids])
            logits = (
                engine.denoiser.read(row, torch.tensor([row.shape[1]]), cache, every=True)
                .logits[0]
                .double()
                .log_softmax(-1)
            )
            nats.append(sum(float(logits[len(before) + i - 1, token]) for i, token in enumerate(ids)))
    chances = [math.exp(value) for value in nats]
    return [chance / sum(chances) for chance in chances]


def test_decisions_are_the_causal_chances_of_their_labels(base, engine):
    from mezzotint.server.decisions import Decisions, told

    state = {"story": "Mia has a dog. It barks."}
    answers = post(base, "/v1/decisions", {"model": "tiny", "state": state, "questions": QUESTIONS})["answers"]
    body = Decisions(state=state, questions=QUESTIONS)
    wanted = {name: alone(engine, *told(body.state, question)) for name, question in body.questions.items()}
    assert answers["happy"] == {"type": "noul", "noul": pytest.approx(wanted["happy"][0], abs=1e-4)}
    animal = answers["animal"]
    assert list(animal["probabilities"].values()) == pytest.approx(wanted["animal"], abs=1e-4)
    assert animal["confidence"] == animal["probabilities"][animal["choice"]] == max(animal["probabilities"].values())
    size = answers["size"]
    assert list(size["probabilities"].values()) == pytest.approx(wanted["size"], abs=1e-4)
    assert size["legend"] == {"0": "small", "1": "middle", "2": "big"}
    assert size["score"] == pytest.approx(wanted["size"][1] + 2 * wanted["size"][2], abs=1e-4)
    together = {f"q{i}": QUESTIONS[name] for i, name in enumerate(["happy", "animal", "size"] * 8)}
    many = post(base, "/v1/systemone", {"state": state, "questions": together})["answers"]
    assert many["q21"]["noul"] == pytest.approx(answers["happy"]["noul"], abs=1e-4)


@pytest.mark.parametrize(
    "questions",
    [
        {}, {"a": {"type": "choice", "criteria": {}}}, {"a": {"type": "score", "criteria": ["one"]}}, {"a": {"type": "essay"}},
        {"a": {"type": "choice", "criteria": {str(i): None for i in range(256)}}}, {"a": 5}, 5,
        {str(i): QUESTIONS["happy"] for i in range(65)},
    ],
)  # fmt: skip
def test_questions_that_cannot_be_are_refused(base, questions):
    post(base, "/v1/decisions", {"state": "a", "questions": questions}, 400)


# -- tokens and embeddings ---------------------------------------------------------------------------------------------


def test_tokens_there_and_back(base, engine):
    text = "Mia has \U0001f600 é\n"
    ids = engine.tokenizer.encode(text)
    for field in ("prompt", "content"):
        told = post(base, "/tokenize", {field: text})
        assert told["tokens"] == ids and told["count"] == len(ids) and told["max_model_len"] == 512
    told = post(base, "/tokenize", {"content": text, "with_pieces": True})["tokens"]
    spelled = [p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in told]
    assert b"".join(spelled).decode() == engine.tokenizer.decode(ids) and [p["id"] for p in told] == ids
    assert post(base, "/detokenize", {"tokens": ids})["content"] == engine.tokenizer.decode(ids)
    for path, wrong in (
        ("/tokenize", {}), ("/tokenize", {"prompt": "a", "content": "b"}), ("/detokenize", {"tokens": [10**6]}),
        ("/detokenize", {"tokens": [-1]}), ("/detokenize", {"tokens": ["1"]}), ("/tokenize", {"prompt": 5}),
    ):  # fmt: skip
        post(base, path, wrong, 400)


def test_embeddings_are_the_mean_of_what_the_causal_pass_knows(client, base, engine):
    texts = ["Mia has a dog.", "The blue horses", "Mia has a cat."]
    told = client.embeddings.create(model="tiny", input=texts)
    vectors = [torch.tensor(item.embedding, dtype=torch.float64) for item in told.data]
    with torch.inference_mode():
        for text, vector in zip(texts, vectors, strict=True):
            ids = engine.tokenizer.encode(text)
            cache = engine.denoiser.new_cache(1, 512)
            states = (
                engine.denoiser.read(torch.tensor([ids]), torch.tensor([len(ids)]), cache, every=True)
                .hidden[0]
                .double()
            )
            wanted = states.mean(0) / states.mean(0).norm()
            assert torch.allclose(vector, wanted, atol=1e-5) and abs(float(vector.norm()) - 1) < 1e-5
    assert float(vectors[0] @ vectors[2]) > float(vectors[0] @ vectors[1])
    plain = post(base, "/v1/embeddings", {"input": texts[0], "encoding_format": "float"})
    coded = post(base, "/v1/embeddings", {"input": engine.tokenizer.encode(texts[0]), "encoding_format": "base64"})
    numbers = struct.unpack(f"<{engine.denoiser.config.width}f", base64.b64decode(coded["data"][0]["embedding"]))
    assert plain["data"][0]["embedding"] == pytest.approx(numbers, abs=1e-6)
    assert (
        plain["usage"]
        == coded["usage"]
        == {"prompt_tokens": plain["usage"]["total_tokens"], **{"total_tokens": plain["usage"]["total_tokens"]}}
    )
    for wrong in (
        {"input": ""}, {"input": []}, {"input": ["a"] * 257}, {"input": [10**6]}, {"input": [[]]}, {"input": [True]},
        {"input": "a", "dimensions": 3}, {"input": "a", "encoding_format": "hex"}, {"input": "Mia " * 600}, {},
    ):  # fmt: skip
        error = post(base, "/v1/embeddings", wrong, 400)["error"]
        assert error["param"]


def test_version(base):
    assert httpx.get(f"{base}/version").json() == {"version": mz.__version__}
