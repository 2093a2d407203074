"""Adapters on disk: what is saved is loaded, the base is pinned, peft reads ours and we read peft's, bad ones are named."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import mezzotint as mz
from mezzotint.checkpoints.adapter import adapter_sha256, read_adapter
from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.load import CONTROL, KNOWN, Checkpoint, load
from mezzotint.model.adapter import TARGETS, AdapterConfig
from mezzotint.model.visibility import context_causal, two_stream_places

TOKENS = torch.randint(7, 200, (2, 24), generator=torch.Generator().manual_seed(0))


def learnt(checkpoint, **settings):
    """A network of this checkpoint under an adapter of random numbers."""
    ids = tuple(checkpoint.facts.control_ids.values())
    config = AdapterConfig(**({"rank": 4, "alpha": 8.0, "control_ids": ids, "confidence": True} | settings))
    denoiser = checkpoint.denoiser().adapt(config).requires_grad_(False)
    g = torch.Generator().manual_seed(5)
    denoiser.adapter.load([(n, torch.randn(t.shape, generator=g) * 0.1) for n, t in denoiser.adapter.tensors().items()])
    return denoiser


def said(denoiser):
    """Logits of a pass with both roles."""
    return denoiser(TOKENS, two_stream_places(12, 4, 2), context_causal()).logits


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    """(base, its network under the adapter, the adapter's folder)."""
    checkpoint = load(tiny[1])
    denoiser = learnt(checkpoint)
    facts = mz.Checkpoint.of(denoiser, "x", checkpoint.tokenizer, checkpoint.facts).facts
    folder = checkpoint.save_adapter(tmp_path_factory.mktemp("adapter") / "smoke", denoiser, facts, {"steps": 3})
    return checkpoint, denoiser, folder


def test_what_is_saved_is_loaded_on_top_and_as_a_whole(saved, tiny, tmp_path):
    checkpoint, denoiser, folder = saved
    top = load(tiny[1], adapter=folder)
    assert top.name == "tiny+smoke" and top.adapter.made == {"steps": 3} and top.adapter.base.name == "tiny"
    assert torch.equal(said(top.denoiser()), said(denoiser))
    assert torch.equal(top.denoiser().adapter.confidence.weight, denoiser.adapter.confidence.weight)
    assert not torch.equal(said(top.denoiser()), said(checkpoint.denoiser()))
    whole = load(top.save(tmp_path / "whole"))
    assert whole.name == "whole" and torch.equal(said(whole.denoiser()), said(denoiser))
    memory = Checkpoint.of(denoiser, "m", checkpoint.tokenizer, checkpoint.facts)
    assert torch.equal(said(load(memory.save(tmp_path / "memory")).denoiser()), said(denoiser))
    assert torch.equal(said(memory.denoiser()), said(denoiser))
    with pytest.raises(ValueError, match="has an adapter already"):
        whole.with_adapter(folder)
    with pytest.raises(ValueError, match="in memory only"):
        memory.save_adapter(tmp_path / "a", denoiser, memory.facts)
    with pytest.raises(ValueError, match="no adapter to save"):
        checkpoint.save_adapter(tmp_path / "a", checkpoint.denoiser(), checkpoint.facts)


def test_eight_bits_with_a_scale_a_row(saved, tiny, tmp_path):
    checkpoint, denoiser, folder = saved
    small = checkpoint.save_adapter(tmp_path / "q8", denoiser, checkpoint.facts, dtype=torch.int8)
    assert not (small / "adapter_model.safetensors").exists()
    sizes = [sum(f.stat().st_size for f in x.glob("*.safetensors")) for x in (small, folder)]
    assert sizes[0] < sizes[1]  # these matrices are so small that most of a file is its header
    for name, exact in denoiser.adapter.tensors().items():
        read = load(tiny[1], adapter=small).denoiser().adapter.tensors()[name]
        step = exact.abs().amax(-1, keepdim=True) / 127 if exact.dim() == 2 else 0.0
        assert ((read - exact).abs() <= 0.5001 * step).all(), name
    file = small / "adapter_model.q8.safetensors"
    tensors = load_file(file)
    scale = next(name for name in tensors if name.endswith(".scale"))
    save_file({name: x for name, x in tensors.items() if name != scale}, file)
    with pytest.raises(CheckpointError, match="scale"):
        load(tiny[1], adapter=small)
    save_file(tensors | {scale: tensors[scale][:-1]}, file)
    with pytest.raises(CheckpointError, match="shape"):
        load(tiny[1], adapter=small)


def test_a_shipped_adapter_lies_on_its_checkpoint_by_name(tmp_path, monkeypatch):
    bare = load("tiny")
    known = replace(KNOWN["tiny"], adapter=tmp_path / "canvas")
    monkeypatch.setitem(KNOWN, "tiny", known)
    assert load("tiny").adapter is None  # none is shipped yet
    denoiser = learnt(bare)
    bare.save_adapter(tmp_path / "canvas", denoiser, bare.facts, dtype=torch.int8)
    found = load("tiny")
    assert found.name == "tiny" and found.adapter is not None and known.trained_canvas
    assert torch.allclose(said(found.denoiser()), said(denoiser), atol=0.05)
    assert adapter_sha256(tmp_path / "canvas") != adapter_sha256(tmp_path)


def test_another_adapter_takes_the_place_of_the_one_that_default_comes_with(saved, tiny, tmp_path, monkeypatch):
    checkpoint, _denoiser, folder = saved
    for name in ("default", "base"):
        monkeypatch.setitem(KNOWN, name, Shipped(checkpoint, folder if name == "default" else None))
    assert load("default").adapter is not None and load("base").adapter is None
    assert load("default", adapter=folder).adapter.folder == folder


class Shipped:
    """A known checkpoint that is a given one."""

    def __init__(self, checkpoint, adapter):
        self.checkpoint, self.adapter = checkpoint, adapter

    def load(self, name):
        return self.checkpoint if self.adapter is None else self.checkpoint.with_adapter(self.adapter)


def test_self_conditioning_is_saved_and_an_adapter_from_before_it_loads(saved, tiny, tmp_path):
    checkpoint, denoiser, folder = saved
    hears = learnt(checkpoint, self_conditioning=True)
    found = load(tiny[1], adapter=checkpoint.save_adapter(tmp_path / "hears", hears, checkpoint.facts))
    names = {name for name in found.adapter.slots if "self_conditioning" in name}
    assert len(names) == 4 and "canvas.self_conditioning.down_proj.weight" in names
    feedback = torch.randn(*TOKENS.shape, checkpoint.config.width)
    where = two_stream_places(12, 4, 2)
    want, got = (d(TOKENS, where, context_causal(), feedback=feedback).logits for d in (hears, found.denoiser()))
    assert torch.equal(want, got) and not torch.equal(want, said(hears))
    base, top = mz.Engine(checkpoint), mz.Engine(found)
    ask = {"prompt": "the", "raw": True, "max_tokens": 12}
    assert top.generate(mz.Request(**ask, decode="verified", draft="self"))[0].ids == (
        base.generate(mz.Request(**ask, decode="ar"))[0].ids
    )
    top.generate(mz.Request(**ask, decode="diffusion"))
    table = json.loads((folder / "mezzotint.json").read_text())
    assert table.pop("self_conditioning") is False
    (folder / "mezzotint.json").write_text(json.dumps(table))
    assert torch.equal(said(load(tiny[1], adapter=folder).denoiser()), said(denoiser))


def test_ar_text_is_the_bases_and_all_ways_to_decode_run(saved, tiny):
    checkpoint, _, folder = saved
    base, top = mz.Engine(checkpoint), mz.Engine(load(tiny[1], adapter=folder))
    ask = {"prompt": "the", "raw": True, "max_tokens": 12}
    want = base.generate(mz.Request(**ask, decode="ar"))[0].ids
    for decode, draft in (("ar", "random"), ("verified", "self"), ("verified", "self-two-call")):
        assert top.generate(mz.Request(**ask, decode=decode, draft=draft))[0].ids == want
    top.generate(mz.Request(**ask, decode="diffusion"))


def test_another_base_is_refused(saved, tiny, tmp_path):
    _, _, folder = saved
    other = load(tiny[1]).save(tmp_path / "other", torch.bfloat16)
    with pytest.raises(CheckpointError, match="trained on 'tiny'"):
        load(other, adapter=folder)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own
def test_peft_reads_what_we_write(saved, tiny):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    _, denoiser, folder = saved
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny[1], dtype=torch.float32), folder)
    ours = learnt(load(tiny[1]), gate="all", canvas=False, control_ids=(), confidence=False)
    ours.adapter.load((n, t) for n, t in denoiser.adapter.tensors().items() if "lora" in n)
    with torch.inference_mode():
        want = theirs(TOKENS).logits
        got = ours.read(TOKENS, torch.tensor([24, 24]), ours.new_cache(2, 24), every=True).logits
    assert (want - got).abs().max() < 1e-4
    assert (want - load(tiny[1]).denoiser().read(TOKENS, torch.tensor([24] * 2), ours.new_cache(2, 24), every=True).logits
            ).abs().max() > 1e-2  # fmt: skip


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], [name.split(".")[1] for name in TARGETS]])
def test_we_read_what_peft_writes(tiny, tmp_path, targets):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = peft.LoraConfig(r=3, lora_alpha=12, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny[1], dtype=torch.float32), config).eval()
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            weight.data *= 0.2  # so that two orders of summation agree to five digits
    theirs.save_pretrained(tmp_path / "lora")
    found = load(tiny[1], adapter=tmp_path / "lora")
    assert found.adapter.gate == "all" and found.facts == load(tiny[1]).facts
    ours = found.denoiser()
    with torch.inference_mode():
        want = theirs(TOKENS).logits
        got = ours.read(TOKENS, torch.tensor([24, 24]), ours.new_cache(2, 24), every=True).logits
    assert (want - got).abs().max() < 1e-4


def test_the_key_layout_is_pefts(saved):
    """As peft documents it: base_model.model.<module>.lora_A.weight, and modules named by their last part."""
    from safetensors.torch import load_file

    _, _, folder = saved
    tensors = load_file(folder / "adapter_model.safetensors")
    assert tensors["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"].shape == (4, 64)
    assert tensors["base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"].shape == (16, 4)
    assert len(tensors) == 2 * 2 * 7
    table = json.loads((folder / "adapter_config.json").read_text())
    assert (
        table["peft_type"] == "LORA"
        and table["r"] == 4
        and table["lora_alpha"] == 8
        and "q_proj" in table["target_modules"]
    )
    ours = json.loads((folder / "mezzotint.json").read_text())
    assert ours["gate"] == "canvas" and len(ours["base"]["sha256"]) == 64 and ours["controls"] == list(CONTROL)


@pytest.mark.parametrize("file, change, problem", [
    ("adapter_config.json", {"use_dora": True}, "use_dora"), ("adapter_config.json", {"peft_type": "IA3"}, "IA3"),
    ("adapter_config.json", {"r": "4"}, "expected numbers"), ("adapter_config.json", {"r": 5}, r"expected \(5, 32\)"),
    ("adapter_config.json", {"r": 5000}, "rank is 5000"), ("adapter_config.json", {"rank_pattern": {"q": 1}}, "rank_pattern"),
    ("mezzotint.json", {"gate": "open"}, "'open'"), ("mezzotint.json", {"more": 1}, "'more'"),
    ("mezzotint.json", {"base": {"name": "x"}}, "name and sha256"), ("mezzotint.json", {"controls": ["NOISE"]}, "NOISE"),
    ("mezzotint.json", {"self_conditioning": 1}, "expected bool"),
    ("mezzotint.json", {"controls": []}, "no place for it"), ("mezzotint.json", {"facts": {"shift": 7}}, "shift is 7"),
])  # fmt: skip
def test_broken_adapters_are_named(saved, tiny, tmp_path, file, change, problem):
    import shutil

    _, _, folder = saved
    broken = shutil.copytree(folder, tmp_path / "broken")
    table = json.loads((broken / file).read_text())
    (broken / file).write_text(json.dumps(table | change))
    with pytest.raises(CheckpointError, match=problem):
        load(tiny[1], adapter=broken)


def test_missing_files_are_named(saved, tiny, tmp_path):
    import shutil

    _, _, folder = saved
    for name, problem in (
        ("adapter_config.json", "missing"), ("adapter_model.safetensors", "missing"), ("canvas.safetensors", "canvas."),
    ):  # fmt: skip
        broken = shutil.copytree(folder, tmp_path / name)
        (broken / name).unlink()
        with pytest.raises(CheckpointError, match=problem):
            load(tiny[1], adapter=broken)
    with pytest.raises(ValueError, match="no adapter folder"):
        load(tiny[1], adapter=tmp_path / "nowhere")
    (tmp_path / "adapter_config.json" / "adapter_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object"):
        read_adapter(tmp_path / "adapter_config.json")


def test_a_draft_head_is_kept_and_folders_older_than_it_have_none(saved, tiny, tmp_path):
    checkpoint, _, folder = saved
    denoiser = learnt(checkpoint, draft_head=12)
    kept = checkpoint.save_adapter(tmp_path / "headed", denoiser, checkpoint.facts)
    hidden, before = torch.randn(3, checkpoint.config.width), torch.tensor([[5, 6], [7, 8], [9, 9]])
    logits = denoiser.speak(hidden, torch.ones(3))
    for found in (load(tiny[1], adapter=kept), load(load(tiny[1], adapter=kept).save(tmp_path / "whole"))):
        assert torch.equal(found.denoiser().redraft(logits, hidden, before), denoiser.redraft(logits, hidden, before))
    small = checkpoint.save_adapter(tmp_path / "small", denoiser, checkpoint.facts, dtype=torch.int8)
    near = load(tiny[1], adapter=small).denoiser().redraft(logits, hidden, before)
    assert torch.allclose(near, denoiser.redraft(logits, hidden, before), atol=0.1)
    assert not load(tiny[1], adapter=folder).denoiser().drafts_in_order
    table = json.loads((kept / "mezzotint.json").read_text())
    for value, message in ((None, "expected int"), (-3, "draft_head"), (13, "expected")):
        (kept / "mezzotint.json").write_text(json.dumps(table | {"draft_head": value}))
        with pytest.raises(CheckpointError, match=message):
            load(tiny[1], adapter=kept)
    del table["draft_head"]
    (kept / "mezzotint.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="no place"):
        load(tiny[1], adapter=kept)
