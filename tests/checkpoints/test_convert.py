"""convert and card: every layout read again, by us and by transformers, with the logits that it had before."""

import json
import os
import re
from dataclasses import replace

import gguf
import numpy as np
import pytest
import tiny_checkpoint
import torch
import toy_folder
import typer.testing
from safetensors import safe_open

import mezzotint as mz
from mezzotint.checkpoints.convert import ar_twin, convert, stored_dtype
from mezzotint.checkpoints.load import Checkpoint, load
from mezzotint.cli import app
from mezzotint.model.adapter import AdapterConfig

IDS = torch.tensor([[1, 20, 21, 250, 9, 33, 2, 70, 71, 72, 5, 100]])
TEXT = "the thing and 12 <|im_end|> ¡ü"


def call(*arguments):
    result = typer.testing.CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@torch.no_grad()
def logits(checkpoint, ids=IDS):
    """Of the clean, causal pass."""
    denoiser = checkpoint.denoiser()
    cache = denoiser.new_cache(len(ids), ids.shape[1])
    return denoiser.read(ids, torch.full((len(ids),), ids.shape[1]), cache, every=True).logits


@torch.no_grad()
def stock_logits(folder, ids=IDS):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()(ids).logits, model


def test_gguf_to_stock_folder_and_back(tiny, tmp_path):
    file, _ = tiny
    before = load(file)
    assert convert(before, tmp_path / "stock", "stock") == []
    table = json.loads((tmp_path / "stock" / "config.json").read_text())
    assert "mezzotint" not in table and table["model_type"] == "llama" and table["dtype"] == "float32"
    theirs, model = stock_logits(tmp_path / "stock")
    torch.testing.assert_close(theirs, logits(before), atol=1e-4, rtol=0)
    ends = model.generation_config.eos_token_id
    assert tuple(ends if isinstance(ends, list) else [ends]) == before.tokenizer.eos_ids
    transformers = pytest.importorskip("transformers")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "stock")
    assert words("the thing and 12", add_special_tokens=False)["input_ids"] == before.tokenizer.encode(
        "the thing and 12"
    )
    said = [{"role": "user", "content": "the"}]
    assert words.apply_chat_template(said, add_generation_prompt=True, tokenize=False).endswith("assistant\n")
    convert(load(tmp_path / "stock"), tmp_path / "again.gguf")
    again = load(tmp_path / "again.gguf")
    assert torch.equal(logits(again), logits(before)) and again.config == before.config
    assert again.tokenizer.encode(TEXT) == before.tokenizer.encode(TEXT)
    assert again.tokenizer.eos_ids == before.tokenizer.eos_ids and again.facts == before.facts
    assert again.tokenizer.chat_template == before.tokenizer.chat_template


@pytest.mark.parametrize(
    "dtype, step", [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3), ("q8_0", 8e-3), ("q4_1", 0.07)]
)
def test_gguf_in_every_type(tiny, tmp_path, dtype, step):
    """step: by which a weight may be off, as a share of its row's range."""
    before = load(tiny[0])
    convert(before, tmp_path / "x.gguf", dtype=dtype)
    found = dict(load(tmp_path / "x.gguf").weights())
    for name, tensor in before.weights():
        wide = tensor.amax(-1, True) - tensor.amin(-1, True) if tensor.dim() == 2 else 0
        assert ((found[name] - tensor).abs() <= step * wide).all(), name
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "x.gguf").tensors}  # somebody else's reader
    wanted = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(dtype, dtype.upper())
    assert kinds["blk.0.attn_q.weight"] == wanted and kinds["output_norm.weight"] == "F32"
    assert os.listdir(tmp_path) == ["x.gguf"]


def test_untied_heads_padded_vocabularies_and_bfloat16(tiny, tmp_path):
    """Rows that no token names, as many checkpoints have; stored in bfloat16 they stay so, bit for bit."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        **{
            k: v
            for k, v in tiny_checkpoint.config_json().items()
            if k not in ("architectures", "model_type", "hidden_act")
        }
        | {"vocab_size": len(tiny_checkpoint.TOKENS) + 13, "tie_word_embeddings": False}
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path / "theirs")
    tiny_checkpoint.library_tokenizer().save(str(tmp_path / "theirs" / "tokenizer.json"))
    ours = load(tmp_path / "theirs")
    assert stored_dtype(ours) == "bfloat16"
    for out in ("ours", "stock"):
        convert(ours, tmp_path / out, "folder" if out == "ours" else "stock")
        theirs, again = stock_logits(tmp_path / out)
        own = dict(model.state_dict())
        assert all(torch.equal(tensor, own[name].float()) for name, tensor in again.state_dict().items())
        torch.testing.assert_close(theirs, logits(load(tmp_path / out)), atol=1e-4, rtol=0)
    convert(ours, tmp_path / "x.gguf")
    assert torch.equal(logits(load(tmp_path / "x.gguf")), logits(ours))
    assert "mezzotint" in json.loads((tmp_path / "ours" / "config.json").read_text())


def test_the_twin_of_a_trained_canvas(tmp_path):
    before = mz.load("tiny")
    left = convert(before, tmp_path / "stock", "stock")
    assert left == ["trained canvas (hybrid noise)", "canvas role vector"] or left == ["trained canvas (hybrid noise)"]
    ids = torch.tensor([before.tokenizer.encode("Mia has a red ball. She")])
    theirs, _ = stock_logits(tmp_path / "stock", ids)
    torch.testing.assert_close(theirs, logits(before, ids), atol=1e-4, rtol=0)
    assert not load(tmp_path / "stock").facts.trained_canvas
    same = mz.load(tmp_path / "stock")
    text = [
        mz.Engine(c).generate(mz.Request("Mia has", raw=True, decode="ar", max_tokens=12))[0].text
        for c in (before, same)
    ]
    assert text[0] == text[1]


@pytest.mark.parametrize("gate", ["canvas", "all"])
def test_adapters_are_merged_where_they_act_on_clean_text(tiny, tmp_path, gate):
    base = load(tiny[1])
    denoiser = base.denoiser()
    ids = tuple(base.facts.control_ids.values())
    denoiser.adapt(AdapterConfig(rank=4, gate=gate, canvas=True, control_ids=ids))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    base.save_adapter(tmp_path / "adapter", denoiser, replace(base.facts, trained_canvas=True))
    adapted = load(tiny[1], tmp_path / "adapter")
    left = convert(adapted, tmp_path / "stock", "stock")
    assert ("adapter, which acts on canvases alone" in left) == (gate == "canvas")
    theirs, _ = stock_logits(tmp_path / "stock")
    torch.testing.assert_close(theirs, logits(adapted), atol=1e-3, rtol=1e-4)  # weights are large here
    moved = (logits(adapted) - logits(base)).abs().max()
    assert moved == 0 if gate == "canvas" else moved > 0.1
    convert(adapted, tmp_path / "ours")
    assert torch.equal(logits(load(tmp_path / "ours")), logits(adapted))


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gpt2", "gemma3", "ministral3"])
def test_other_families_keep_their_own_layout(tmp_path, name):
    toy_folder.write(name, tmp_path / "in")
    before = load(tmp_path / "in")
    convert(before, tmp_path / "out", "stock")
    ids = torch.tensor([[1, 5, 9, 3, 7]])
    theirs, model = stock_logits(tmp_path / "out", ids)
    torch.testing.assert_close(theirs, logits(before, ids), atol=1e-4, rtol=0)
    assert model.config.model_type == {"gemma3": "gemma3_text"}.get(name, name)
    with pytest.raises(ValueError, match=r"written for those only"):
        convert(before, tmp_path / "x.gguf")


WRITTEN = (
    "dream", "llada", "llada2", "sdar", "sdar_moe", "fast_dllm_v2", "a2d", "diffusion_gemma", "sedd", "sedd_uniform", "udlm",
    "udlm_classes",
)  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_diffusion_families_are_written_as_they_were_read(tmp_path, name):
    """Names, shapes, numbers and facts; config.json says of each key what it said, where both have it."""
    before = toy_folder.write(name, tmp_path / "in")
    convert(load(tmp_path / "in"), tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        after = {tensor: file.get_tensor(tensor) for tensor in file.keys()}  # noqa: SIM118  # a file is no dict
    first, again = load(tmp_path / "in"), load(tmp_path / "out")
    ignored = first.family.ignored
    assert set(after) == {tensor for tensor in before if not re.fullmatch(ignored, tensor)}
    assert all(np.array_equal(after[tensor], before[tensor]) for tensor in after)
    assert (again.config, again.facts) == (first.config, first.facts)
    told, was = (json.loads((tmp_path / where / "config.json").read_text()) for where in ("out", "in"))
    both = {key for key in set(told) & set(was) if not isinstance(was[key], dict)}
    both -= {"architectures"} if name == "llada" else set()  # its class there is one that runs without CUDA
    assert {key: told[key] for key in both} == {key: was[key] for key in both}


@pytest.mark.parametrize(
    "name, said", [("dream", "full visibility"), ("sdar", "blocks visibility"), ("diffusion_gemma", "no stock layout")]
)
def test_families_without_a_twin(tmp_path, name, said):
    toy_folder.write(name, tmp_path / "in")
    with pytest.raises(ValueError, match=said):
        ar_twin(load(tmp_path / "in"))


def test_a_network_in_memory_has_a_twin(tmp_path):
    before = mz.load("tiny")
    made = Checkpoint.of(before.denoiser(), "made", before.tokenizer, before.facts)
    convert(made, tmp_path / "stock", "stock")
    ids = torch.tensor([[5, 9, 3]])
    assert torch.equal(logits(load(tmp_path / "stock"), ids), logits(before, ids))


def test_the_base_as_stock_folder(base_path, tmp_path, full):
    """The default base, 135 million weights: the twin in bfloat16 must be near what the file says."""
    if not full:
        pytest.skip("a gigabyte of weights; MEZZOTINT_FULL=1")
    before = mz.load("base")
    ids = torch.tensor([before.tokenizer.encode("The capital of France is")])
    convert(before, tmp_path / "stock", "stock")
    theirs, _ = stock_logits(tmp_path / "stock", ids)
    torch.testing.assert_close(theirs, logits(before, ids), atol=1e-3, rtol=0)
    convert(before, tmp_path / "x.gguf", dtype="q4_1")
    assert torch.equal(logits(load(tmp_path / "x.gguf"), ids).argmax(-1), logits(before, ids).argmax(-1))


# -- errors, and the command -----------------------------------------------------------------------------------------


def test_nothing_is_overwritten_and_nothing_is_left(tiny, tmp_path, monkeypatch):
    before = load(tiny[0])
    (tmp_path / "x.gguf").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    for out in ("x.gguf", "folder"):
        with pytest.raises(FileExistsError, match="exists"):
            convert(before, tmp_path / out)
    monkeypatch.setattr(
        gguf.GGUFWriter, "write_tensors_to_file", lambda self: (_ for _ in ()).throw(OSError(5, "broken disk"))
    )
    with pytest.raises(OSError, match="broken disk"):
        convert(before, tmp_path / "y.gguf")
    assert sorted(os.listdir(tmp_path)) == ["folder", "x.gguf"] and (tmp_path / "x.gguf").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--to", "onnx"), "allowed: folder, stock, gguf"),
        (("--dtype", "q8_0"), "allowed for folder: float32, float16, bfloat16"),
        (("--to", "gguf", "--dtype", "int3"), "q8_0, q4_1"),
    ],
)
def test_bad_layouts_and_types(tiny, tmp_path, arguments, said):
    code, _, error = call("convert", tiny[0], tmp_path / "out", *arguments)
    assert code == 2 and said in error and not os.listdir(tmp_path)


def test_commands(tiny, tmp_path):
    code, out, _ = call("convert", "tiny", tmp_path / "out", "--to", "stock")
    assert code == 0 and out.strip() == str(tmp_path / "out") and (tmp_path / "out" / "model.safetensors").is_file()
    code, _, error = call("convert", "tiny", tmp_path / "out")
    assert code == 1 and "is not an empty folder" in error
    code, _, error = call("convert", "digits", tmp_path / "d", "--to", "stock")
    assert code == 2 and "whole canvases" in error
    code, out, _ = call("card", tiny[0])
    assert code == 0 and out.startswith("# tiny") and "| layers | 2 |" in out
    told = json.loads(call("card", tiny[1], "--json")[1])
    assert told["parameters"] == load(tiny[1]).parameters and told["config"]["width"] == 32
    assert told["facts"]["control_ids"]["MASK"] == 3
    assert call("card", "openai:gpt")[0] == 2


def test_models_says_what_fits(tiny, monkeypatch):
    from mezzotint import model_list

    monkeypatch.setattr(model_list, "free_memory", lambda: 600_000_000)
    code, out, error = call("models", tiny[1], "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and rows["tiny"]["fits"] and not rows["default"]["fits"] and rows[str(tiny[1])]["fits"]
    code, out, error = call("models", tiny[1])
    assert "does NOT fit" in out and "0.0 billion parameters" in error and "family llama" in out
    code, out, _ = call("models", "--families")
    assert "diffusion_gemma" in out and "folder, stock, gguf" in out and "nothing yet" in out
    assert call("models", "nowhere")[0] == 2


def test_free_memory_is_within_the_machine():
    from mezzotint.doctor import free_memory, installed_memory

    assert 0 < free_memory() <= installed_memory()
