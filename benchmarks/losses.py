"""Our losses against the reference implementations' on the same tensors: values and gradients, within 1e-5.

    python benchmarks/losses.py --mdlm DIR --bd3lms DIR --udlm DIR --duo DIR --gidd DIR --sedd DIR --nemo DIR

Each DIR is a checkout of the code named in `REFERENCES`, outside this repository; who is not given is left out. A reference's
modules are loaded from its folder as they are, with everything but torch, numpy and the standard library replaced by a
stub that does nothing: a loss needs no lightning, hydra or flash-attn. What calls a loss, its method's `self`, is a
namespace of just the values that the method reads, so the arithmetic that runs is theirs alone. Both sides compute in
float64. Exits with 1 if a difference is above 1e-5.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import report
import torch
import torch._dynamo  # it imports sympy, which must not meet a stub
from torch import Tensor

from mezzotint.draws import Draws
from mezzotint.model.config import ModelConfig
from mezzotint.model.visibility import CANVAS, CLEAN, Places, context_causal, two_stream_places
from mezzotint.noise import Absorbing, NoiseProcess, Schedule, Uniform, gidd
from mezzotint.objective import legal
from mezzotint.train.corruption import causal_batch
from mezzotint.train.trainer import Batch, initialise, loss_of

REFERENCES = {
    "mdlm": "kuleshov-group/mdlm",
    "bd3lms": "kuleshov-group/bd3lms",
    "udlm": "kuleshov-group/discrete-diffusion-guidance",
    "duo": "s-sahoo/duo",
    "gidd": "dvruette/gidd",
    "sedd": "louaaron/Score-Entropy-Discrete-Diffusion",
    "nemo": "NVIDIA-NeMo/Automodel, which holds the training loss of DiffusionGemma",
}
BOUND = 1e-5
B, L, V = 8, 32, 50  # V counts the mask, the last id, where there is one
MASK = V - 1
EPS = 1e-3  # where MDLM's, SEDD's and Duo's log-linear schedule stops: alpha = 1 - (1 - EPS) t


# -- loading a loss, and nothing else ----------------------------------------------------------------------------------


class _Nothing(type):
    """A class whose attributes are such classes, which can be subclassed, called and used to decorate."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__bases__ != (object,):
            return super().__call__(*args, **kwargs)
        return args[0] if len(args) == 1 and callable(args[0]) else cls


class _Stub(types.ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stub for every module that is not of torch, numpy, the standard library or the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        top = name.split(".")[0]
        if self.holds(top) or top in ("torch", "numpy") or top in sys.stdlib_module_names:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def holds(self, top: str) -> bool:
        return (self.folder / top).is_dir() or (self.folder / f"{top}.py").exists()

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def load(folder: Path, *names: str) -> list[Any]:
    """Modules of the folder. They and the stubs are forgotten by the interpreter afterwards, so that no names clash."""
    stubs, before = _Stubs(folder), dict(sys.modules)
    for name in before:
        if stubs.holds(name.split(".")[0]):
            del sys.modules[name]
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, stubs)
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder))
        sys.meta_path.remove(stubs)
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] not in ("torch", "numpy", *sys.stdlib_module_names):
                del sys.modules[name]
        sys.modules.update(before)


# -- the same tensors for both sides -----------------------------------------------------------------------------------


class Case(NamedTuple):
    """logits float64 `[B, L, V]`, a leaf; x, z int64 `[B, L]`; t float64 `[B]`, or `[B, L]` where a block has its own."""

    logits: Tensor
    x: Tensor
    z: Tensor
    t: Tensor


def case(process: NoiseProcess, size: int | None = None, low: float = 0.02) -> Case:
    g = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(B, L, V, generator=g)).requires_grad_()
    x = torch.randint(MASK if process.mask_id is not None else V, (B, L), generator=g)
    t = low + (0.98 - low) * torch.rand(B, L // size if size else 1, generator=g)
    t = t.repeat_interleave(size or L, 1)
    z = process.corrupt(x, t, None, Draws.of(0, B))
    return Case(logits, x, z, t if size else t[:, 0])


class Row(NamedTuple):
    reference: str
    what: str
    ours: Tensor  # the values compared
    theirs: Tensor
    logits: Tensor | None  # what both have a gradient for
    note: str = ""

    def differences(self) -> tuple[float, float | None]:
        """The largest of values and of gradients, relative to their scale where that is above 1."""
        values = _difference(self.ours.detach(), self.theirs.detach())
        if self.logits is None:
            return values, None
        g = torch.randn(self.ours.shape, generator=torch.Generator().manual_seed(1))
        ours, theirs = (torch.autograd.grad(v, self.logits, g.to(v.dtype), retain_graph=True)[0] for v in self[2:4])
        return values, _difference(ours, theirs)


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape or not bool(a.isfinite().all() & b.isfinite().all()):
        return float("inf")
    return float(((a - b).abs() / b.abs().clamp(min=1)).max())


def ours(process: NoiseProcess, c: Case, s: Tensor | None = None) -> Tensor:
    """Our integrand; what the network says about a position is the leave-one-out posterior where noise is uniform."""
    log_probs = legal(process, c.logits).log_softmax(-1)
    prediction = "leave_one_out" if process.support else "full"
    return process.nelbo(log_probs, c.x, c.z, c.t, s, prediction=prediction)


MASKED = Absorbing(MASK, V)
UNIFORM = Uniform(V)


def stopped(c: Case) -> Case:
    """The same case at the level of a linear schedule that has the alpha of theirs at t: (1 - EPS) t."""
    return c._replace(t=(1 - EPS) * c.t)


# -- the references ----------------------------------------------------------------------------------------------------


def mdlm(folder: Path) -> Iterator[Row]:
    diffusion, schedules = load(folder, "diffusion", "noise_schedule")
    Diffusion = diffusion.Diffusion
    c = case(MASKED, low=0.2)

    def forward(x: Tensor, sigma: Tensor) -> Tensor:
        return Diffusion._subs_parameterization(me, c.logits.clone(), x)

    me = SimpleNamespace(
        T=0, change_of_variables=False, importance_sampling=False, parameterization="subs", mask_index=MASK, vocab_size=V,
        neg_infinity=-1e6, noise=schedules.LogLinearNoise(EPS), forward=forward,
        _sample_t=lambda *_: c.t, q_xt=lambda *_: c.z,
    )  # fmt: skip
    theirs = Diffusion._forward_pass_diffusion(me, c.x)
    yield Row("MDLM", "continuous time", ours(MASKED, c), theirs, c.logits, "both weigh by 1/t whatever EPS is")
    me.T = 16
    c = c._replace(t=((c.t * 16).floor() + 1).clamp(2, 15) / 16)
    theirs = Diffusion._d3pm_loss(me, forward(c.z, c.t), c.z, c.x, c.t)
    ours_16 = 16 * ours(MASKED, c, c.t - 1 / 16)
    yield Row("MDLM", "16 steps (D3PM)", ours_16, theirs, c.logits, "t = 1/16 left out: 0 times infinity there")


def bd3lms(folder: Path) -> Iterator[Row]:
    diffusion, schedules, dit = load(folder, "diffusion", "noise_schedule", "models.dit")
    Diffusion, size = diffusion.Diffusion, 4
    c = case(MASKED, size)
    me = SimpleNamespace(
        mdlm_loss_scale=False, ignore_bos=False, cross_attn=True, parameterization="subs", mask_index=MASK,
        neg_infinity=-1e6, noise=schedules.LogLinearNoise(EPS), q_xt=lambda *_, **__: c.z,
        forward=lambda x, sigma: Diffusion._subs_parameterization(me, c.logits.clone(), x[:, :L]),
    )  # fmt: skip
    me._sigma_from_p = lambda p: Diffusion._sigma_from_p(me, p)
    theirs = Diffusion._forward_pass_diffusion(me, c.x, t=c.t)
    yield Row("BD3-LM", f"blocks of {size}, a level each", ours(MASKED, c), theirs, c.logits)
    places = two_stream_places(L, size)
    index = torch.arange(2 * L)
    theirs = dit.block_diff_mask(None, None, index[:, None], index, block_size=size, n=L)
    seen = context_causal().dense(places, places)[0]
    note = "theirs lets a clean position see its whole block, ours what stands before it, so that it is AR too"
    yield Row("BD3-LM", "attention of the canvas", seen[:L].double(), theirs[:L].double(), None, note)


def udlm(folder: Path) -> Iterator[Row]:
    diffusion, schedules = load(folder, "diffusion", "noise_schedule")
    Diffusion = diffusion.Diffusion
    c = case(UNIFORM)
    off = SimpleNamespace(use_simple_ce_loss=False)
    me = SimpleNamespace(
        T=0, diffusion="uniform", vocab_size=V, change_of_variables=False, importance_sampling=False, training=False,
        parameterization="d3pm", limiting_distribution=torch.full((1, 1, V), 1 / V), dtype=torch.float64,
        config=SimpleNamespace(noise=SimpleNamespace(type="loglinear"), training=off, zero_recon_loss=True),
        noise=schedules.LogLinearNoise(EPS), forward=lambda x, *_, **__: c.logits.log_softmax(-1),
        _sample_t=lambda *_: c.t, _q_xt=lambda *_: c.z, _reconstruction_loss=lambda x, cond=None: torch.zeros(x.shape),
    )  # fmt: skip
    theirs = Diffusion._forward_pass_diffusion(me, c.x)["diffusion_loss"]
    note = "its alpha is 1 - t in the loss; it adds a reconstruction term, 0 in continuous time"
    yield Row("UDLM", "continuous time", ours(UNIFORM, c), theirs, c.logits, note)
    me.T = 16
    me._compute_posterior = lambda **kwargs: Diffusion._compute_posterior(me, **kwargs)
    c = c._replace(t=((c.t * 16).floor() + 1).clamp(2, 15) / 16)
    theirs = Diffusion._d3pm_loss(me, c.logits.log_softmax(-1), c.z, c.x, c.t)
    yield Row("UDLM", "16 steps (D3PM)", 16 * ours(UNIFORM, c, c.t - 1 / 16), theirs, c.logits)


def duo(folder: Path) -> Iterator[Row]:
    [algo] = load(folder, "algo")
    me = SimpleNamespace(vocab_size=V, mask_index=MASK, neg_infinity=-1e6)
    for schedule in (Schedule.linear(), Schedule.cosine()):
        uniform, masked = Uniform(V, schedule=schedule), Absorbing(MASK, V, schedule)
        for process, method in ((uniform, algo.DUO_BASE), (masked, algo.MDLM)):
            c = case(process)
            said = method._process_model_output(me, c.logits.clone(), c.z, None)
            alpha, dalpha = schedule.alpha(c.t)[:, None], schedule.dalpha(c.t)[:, None]
            theirs = method.nll_per_token(me, said, c.z, c.x, alpha, dalpha)
            name = "Duo" if process is uniform else "Duo's MDLM"
            yield Row(name, f"continuous time, {schedule.name} alpha", ours(process, c), theirs, c.logits)


def gidd_(folder: Path) -> Iterator[Row]:
    Loss, Noise = load(folder, "gidd.loss", "gidd.diffusion_process")

    class Ids:
        mask_token_id = MASK

        def __len__(self) -> int:
            return V

    config = SimpleNamespace(loss=SimpleNamespace(loss_weighting="dynamic", min_loss_weight=0.0, max_loss_weight=2.0))
    for share in (0.1, 0.3):
        process = gidd(MASK, range(MASK), V, share)
        c = case(process)
        loss = Loss.GiddLoss(config, Ids(), Noise.HybridDiffusion(Ids(), p_uniform=share))
        theirs = loss.loss(c.logits.clone(), c.x, torch.ones(B, L), c.z, c.t)[1]
        note = "the ELBO; its training loss weighs the same terms otherwise"
        yield Row("GIDD", f"uniform share {share}", ours(process, c), theirs, c.logits, note)
    c = case(MASKED)
    theirs = Loss.MDLMLoss(config, Ids(), Noise.MaskedDiffusion(Ids())).loss(
        c.logits.clone(), c.x, torch.ones(B, L), c.z, c.t
    )[1]
    yield Row("GIDD's MDLM", "continuous time", ours(MASKED, c), theirs, c.logits)


def sedd(folder: Path) -> Iterator[Row]:
    graphs, schedules = load(folder, "graph_lib", "noise_lib")
    noise = schedules.LogLinearNoise(EPS)
    for process, name in ((MASKED, "absorbing"), (UNIFORM, "uniform")):
        c = case(process)
        sigma, dsigma = noise.total_noise(c.t)[:, None], noise.rate_noise(c.t)[:, None]
        law = process.marginal(legal(process, c.logits).softmax(-1), (1 - EPS) * c.t)  # [B, L, V]
        # the score of a prediction: how much likelier than z each y is under the noisy prediction
        log_score = law.clamp(min=1e-300).log() - law.gather(-1, c.z[..., None]).log()
        graph = graphs.Absorbing(MASK) if process is MASKED else graphs.Uniform(V)
        theirs = dsigma * graph.score_entropy(log_score, sigma, c.z, c.x)
        note = "score = q(y | p) / q(z | p); its alpha is 1 - 0.999 t, so t is ours times 0.999, the rate too"
        yield Row("SEDD", name, (1 - EPS) * ours(process, stopped(c)), theirs, c.logits, note)


def nemo(folder: Path) -> Iterator[Row]:
    [losses] = load(folder, "nemo_automodel.components.loss.dllm_loss")
    g = torch.Generator().manual_seed(0)
    denoiser = initialise(ModelConfig(V, 16, 1, 2, 2, 8, 32, L), 0).double()
    x = torch.randint(V, (B, L), generator=g)
    z = UNIFORM.corrupt(x, torch.rand(B, generator=g), None, Draws.of(0, B))
    scored = torch.rand(B, L, generator=g) < 0.7
    position = torch.arange(L).expand_as(x)
    canvas = Places.of(position, torch.full_like(position, CANVAS))
    batch = Batch(z, canvas, x, scored.double())
    logits = denoiser(z, canvas, context_causal()).logits
    theirs = losses.BlockDiffusionCrossEntropyLoss()(logits, x, z != x, torch.ones(B, L), scored).total_loss
    note = "a mean over scored positions, right ones too: weight 1 everywhere (`keep=1`)"
    weights = denoiser.embedding.weight
    yield Row("DiffusionGemma", "flat loss", loss_of(denoiser, batch, context_causal()), theirs, weights, note)
    real = torch.arange(L) < torch.randint(4, L + 1, (B, 1), generator=g)
    batch = causal_batch(x, real)
    logits = denoiser(x, Places.of(position, torch.full_like(position, CLEAN), valid=real), context_causal()).logits
    theirs = losses.encoder_ar_loss(logits, x, real)
    yield Row("DiffusionGemma", "AR loss", loss_of(denoiser, batch, context_causal()), theirs, weights)


RUNS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "mdlm": mdlm, "bd3lms": bd3lms, "udlm": udlm, "duo": duo, "gidd": gidd_, "sedd": sedd, "nemo": nemo
}  # fmt: skip


def version(folder: Path) -> str:
    """The commit of a checkout, where it is one."""
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 and (folder / ".git").exists() else "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, repository in REFERENCES.items():
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=repository)
    folders: dict[str, Path] = {name: path for name, path in vars(parser.parse_args()).items() if path}
    if not folders:
        parser.error("give the folder of at least one reference")
    torch.set_default_dtype(torch.float64)
    rows: list[Sequence[object]] = []
    worst = 0.0
    for name, folder in folders.items():
        for row in RUNS[name](folder.resolve()):
            value, gradient = row.differences()
            worst = max(worst, value, gradient or 0.0)
            shown = "" if gradient is None else f"{gradient:.1e}"
            mean = f"{float(row.theirs.detach().mean()):.4f}"
            rows.append([row.reference, row.what, row.theirs.numel(), mean, f"{value:.1e}", shown, row.note])
    head = ["reference", "loss", "values", "their mean", "largest difference", "of gradients", "convention"]
    used = [(REFERENCES[name], version(folder)) for name, folder in folders.items()]
    lines = [
        f"Identical logits, texts and levels; differences are relative where a value is above 1. All within {BOUND:g}: "
        f"{'yes' if worst <= BOUND else 'NO'}.", "", *report.table(head, rows), "", *report.table(["code", "commit"], used),
    ]  # fmt: skip
    report.write("losses", "Our losses and the reference implementations'", lines)
    sys.exit(worst > BOUND)


if __name__ == "__main__":
    main()
