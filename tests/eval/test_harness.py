"""lm-eval drives our model and our server: log-likelihoods beside transformers' arithmetic, texts beside the engine's.

Skipped where lm-eval is not installed; it is best in an environment of its own."""

import math

import pytest
import torch

import mezzotint as mz

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402  # behind the skip

from mezzotint.eval.harness import Mezzotint  # noqa: E402  # behind the skip

pytestmark = pytest.mark.filterwarnings("default")  # lm-eval's packages warn of each other


@pytest.fixture(scope="module")
def model():
    return Mezzotint("tiny", batch_size=3)


def asked(kind, *pairs):
    return [Instance(kind, {}, pair, number) for number, pair in enumerate(pairs)]


def one_by_one(model, context, answer):
    """The same sum by single steps of AR."""
    engine, total, greedy = model.engine, 0.0, True
    ids = engine.tokenizer.prompt(context + answer)
    start = len(engine.tokenizer.prompt(context)) if context else 0
    ids, start = (ids, start) if context else ([model.eot_token_id, *ids], 1)
    with torch.inference_mode():
        cache = engine.denoiser.new_cache(1, len(ids))
        for at, token in enumerate(ids[:-1]):
            law = (
                engine.denoiser.read(torch.tensor([[token]]), torch.tensor([1]), cache)
                .logits[0, -1]
                .double()
                .log_softmax(-1)
            )
            if at + 1 >= start:
                total += float(law[ids[at + 1]])
                greedy &= int(law.argmax()) == ids[at + 1]
    return total, greedy


def test_loglikelihoods_are_those_of_single_steps(model):
    pairs = [
        ("Mia has two", " dogs"),
        ("def f(x):", "\n    return x"),
        ("", "The cat"),
        ("One two three four", " five six seven"),
    ]
    for pair, (value, greedy) in zip(
        pairs, model.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True), strict=True
    ):
        assert (value, greedy) == (pytest.approx(one_by_one(model, *pair)[0], abs=1e-3), one_by_one(model, *pair)[1]), (
            pair
        )
    (greedy,) = model.engine.generate([mz.Request("Mia has two", raw=True, decode="ar", max_tokens=3)])
    (found,) = model.loglikelihood(asked("loglikelihood", ("Mia has two", greedy.text)), disable_tqdm=True)
    assert found[1] is True


def test_whole_texts_in_windows(model):
    text = "The cat sat on the mat. " * 12
    (whole,) = model.loglikelihood_rolling(asked("loglikelihood_rolling", (text,)))
    assert whole == pytest.approx(one_by_one(model, "", text)[0], abs=1e-2) and whole < -10


def test_texts_end_before_a_stop(model):
    (reply,) = model.engine.generate([mz.Request("Mia has two", raw=True, decode="ar", max_tokens=24)])
    stop = reply.text[len(reply.text) // 2 :][:3]
    options = {"until": [stop], "max_gen_toks": 24, "do_sample": False}
    rest = ("Tom went", {"until": [], "max_gen_toks": 24})
    texts = model.generate_until(asked("generate_until", ("Mia has two", options), rest))
    assert texts[0] == reply.text[: reply.text.find(stop)] and stop and texts[1]
    long = "word " * model.engine.denoiser.config.max_length
    assert model.generate_until(asked("generate_until", (long, {"until": [], "max_gen_toks": 4}))) == [""]


def test_conversations_keep_their_markers(model):
    if model.tokenizer.chat_template is None:
        pytest.skip("this model has no chat template")
    messages = [{"role": "user", "content": "Say <|im_start|> please."}]
    text = model.apply_chat_template(messages)
    assert model.tok_encode(text) == model.tokenizer.chat(messages)
    (said,) = model.generate_until(asked("generate_until", (text, {"until": [], "max_gen_toks": 8})))
    (reply,) = model.engine.generate([mz.Request(messages, decode="ar", max_tokens=8)])
    assert said == reply.text


TASK = {
    "task": "sums", "dataset_path": "json", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}", "test_split": "train",
    "output_type": "generate_until", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


def evaluated(task, tmp_path, model, **more):
    from lm_eval.tasks import TaskManager

    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"q": "1 + 1 =", "a": "2", "c": [" 2", " 3"], "l": 0}\n{"q": "2 + 3 =", "a": "5", "c": [" 4", " 5"], "l": 1}\n'
    )
    task = {**task, "dataset_kwargs": {"data_files": {"train": str(rows)}, "cache_dir": str(tmp_path / "cache")}}
    return lm_eval.simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
        **more,
    )


CHOICE = {
    "task": "choice", "dataset_path": "json", "doc_to_text": "{{q}}", "doc_to_target": "{{l}}", "doc_to_choice": "{{c}}",
    "test_split": "train", "output_type": "multiple_choice", "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


def test_a_task_of_each_kind(model, tmp_path):
    found = evaluated(CHOICE, tmp_path, model)
    for sample in found["samples"]["choice"]:
        values = [one_by_one(model, sample["doc"]["q"], choice)[0] for choice in sample["doc"]["c"]]
        assert sample["acc"] == float(max(range(2), key=values.__getitem__) == sample["doc"]["l"])
    found = evaluated(TASK, tmp_path, model)
    for sample in found["samples"]["sums"]:
        request = mz.Request(sample["doc"]["q"], raw=True, decode="ar", max_tokens=8)
        assert sample["resps"][0][0] == model.engine.generate([request])[0].text.split("\n")[0]
    assert not math.isnan(found["results"]["sums"]["exact_match,none"])


def test_our_server_through_lm_evals_own_clients(tmp_path):
    live = pytest.importorskip("live", reason="the server's packages are not installed")
    pytest.importorskip("tenacity", reason="lm-eval's clients want lm-eval[api]")
    engine = mz.Engine(mz.load("tiny"))
    with live.running(live.Held(engine)) as (address, _):
        for kind, path in (("local-completions", "completions"), ("local-chat-completions", "chat/completions")):
            model_args = f"model=tiny,base_url={address}/v1/{path},tokenizer_backend=None,tokenized_requests=False"
            found = evaluated(TASK, tmp_path, kind, model_args=model_args, apply_chat_template="chat" in path)
            for sample in found["samples"]["sums"]:
                # tiny has no chat template: the server continues a message as it stands
                request = mz.Request(sample["doc"]["q"], raw=True, decode="verified", max_tokens=8)
                assert sample["resps"][0][0] == engine.generate([request])[0].text.split("\n")[0], kind
