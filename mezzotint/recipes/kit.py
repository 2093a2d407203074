"""The kit: an adaptation on a machine that has a GPU and little else. Nothing is installed there; one command starts it.

    here    pack      code, base weights, examples, plan, last adapter   -> KIT, in parts      runs/adapt_gpu.sh pack KIT ...
    there   run       parts -> a run in the background                                         KIT/adapt_gpu.sh run
            status    how far it is, as a line and an exit code; `stop` ends it, `run` goes on
            return    adapter, metrics, samples                          -> BACK, in parts
    here    collect   parts -> an adapter that loads                                           runs/collect.sh BACK OUT

    WORK/   code/ base/ data/ plan/ adapter/     what was unpacked          state.json log    the run, from outside
            run/       its checkpoints and metrics.jsonl                    out/  plateau/    adapters it has made

* A lock is held while the run is going: it goes with the process, however that ends, so `status` cannot be fooled by a kill.
* The trainer measures its speed over the first twentieth and fixes the number of steps, which places the stages. Should
  it be late all the same, it is stopped `RESERVE` before the limit and the newest checkpoint is made into the adapter.
* The optimizer's state does not come back: a continued run warms up again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezzotint.recipes import parts

if TYPE_CHECKING:
    from mezzotint.checkpoints.load import Checkpoint
    from mezzotint.recipes.adapt import Adaptation

DONE, FAILED, BAD_INPUT, RUNNING, STOPPED, NOT_STARTED = 0, 1, 2, 10, 11, 12
RESERVE = 0.06  # of the minutes: for a last checkpoint and the adapter made of it
METRICS = "run/metrics.jsonl"
RECENT = 32  # steps over which speed is measured
PROMPTS = ("def is_even(n):", "Write one sentence about the sea.", "The three primary colours are")


# -- here: packing -----------------------------------------------------------------------------------------------------


def pack(
    out: Path, data: Path, base: str = "base", adapter: Path | None = None, configuration: str = "gpu-30min",
    overrides: Sequence[str] = (), part_size: float = 48,
) -> dict[str, Any]:  # fmt: skip
    """Write the kit's parts into `out`; -> the manifest. data: a folder of `examples.write_examples`.

    Raises ValueError for what does not fit together (another tokenizer, an adapter of other weights, unknown numbers), OSError.
    """
    import mezzotint as mz
    from mezzotint.checkpoints.blocks import save_blocks
    from mezzotint.train.examples import read_manifest

    settings_of(configuration, overrides)
    checkpoint = mz.load(base)
    read_manifest(data, checkpoint.tokenizer)
    if adapter is not None:
        checkpoint.with_adapter(adapter)
    staged = out.with_name(f".{out.name}.{os.getpid()}.staged")
    try:
        save_blocks(checkpoint, staged / "base")
        _copy_code(staged / "code" / "mezzotint")
        (staged / "plan").mkdir()
        plan = {
            "configuration": configuration,
            "overrides": list(overrides),
            "examples": _sha256(data / "manifest.json"),
        }
        (staged / "plan" / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")
        folders = {name: staged / name for name in ("base", "code", "plan")} | {"data": data}
        return parts.split(folders | ({"adapter": adapter} if adapter else {}), out, parts.megabytes(part_size))
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _copy_code(into: Path) -> None:
    """The package without the weights of the small models that come with it."""
    package = Path(__file__).parents[1]
    shutil.copytree(
        package, into, ignore=shutil.ignore_patterns("__pycache__", "tiny", "digits", "canvas", "*.safetensors")
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def settings_of(configuration: str, overrides: Sequence[str]) -> Adaptation:
    """Raises ValueError for an unknown configuration, number or value."""
    from mezzotint.recipes.adapt import CONFIGURATIONS
    from mezzotint.train.recipe import apply

    if configuration not in CONFIGURATIONS:
        raise ValueError(f"unknown configuration {configuration!r}; known: {', '.join(CONFIGURATIONS)}")
    return apply(CONFIGURATIONS[configuration](), overrides)


# -- there: the run ----------------------------------------------------------------------------------------------------


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Held by the one run of a folder. Raises ValueError when it is taken."""
    with (work / "lock").open("w") as file:
        for attempt in range(20):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # for an instant, it may be `is_running` that holds it
                time.sleep(0.05)
                if attempt == 19:
                    raise ValueError(f"a run in {work} is going on already; ask for its status, or stop it") from None
        yield


def is_running(work: Path) -> bool:
    """Does some process hold the lock?"""
    try:
        with (work / "lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _note_state(work: Path, **facts: Any) -> None:
    part = work / ".state.part"
    part.write_text(json.dumps({"pid": os.getpid(), **facts}))
    os.replace(part, work / "state.json")


def start(work: Path, minutes: float | None, overrides: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `train` under nohup, in a session of its own, writing to WORK/log; -> it, once it is at work.

    Raises ValueError when one is running, RuntimeError with the end of the log when it fails at once.
    """
    if is_running(work):
        raise ValueError(f"a run in {work} is going on already; ask for its status, or stop it first")
    (work / "state.json").unlink(missing_ok=True)
    ask = [*overrides, *(["--minutes", str(minutes)] if minutes is not None else [])]
    command = ["nohup", sys.executable, "-m", "mezzotint.recipes.kit", "train", str(work), *ask]
    with (work / "log").open("ab") as log:
        begun = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    while begun.poll() is None and not (work / "state.json").exists():
        time.sleep(0.05)
    if begun.returncode:
        raise RuntimeError(f"the run failed at once: {_last_line(work / 'log')}")
    return begun


def _last_line(path: Path) -> str:
    lines = path.read_text("utf-8", "replace").strip().splitlines() if path.is_file() else []
    return lines[-1] if lines else "it said nothing"


def train(work: Path, minutes: float | None = None, overrides: Sequence[str] = ()) -> None:
    """Adapt as the plan says, to the end or to the limit; go on from WORK/run where that is. WORK/out is the adapter then.

    minutes: of the whole process, in place of the configuration's; a run that goes on keeps those it began with. Raises what
    `adapt.run` raises, after it has been noted in state.json.
    """
    with _locked(work):
        _note_state(work, state="running", why="loading")
        try:
            why = _train(work, minutes, overrides)
        except BaseException as error:
            stopped = type(error).__name__ in ("Stopped", "KeyboardInterrupt")
            why = str(error) or type(error).__name__
            _note_state(
                work, state="stopped" if stopped else "failed", why=why, code=getattr(error, "exit_code", FAILED)
            )
            raise
        _note_state(work, state="done", why=why)


def _train(work: Path, minutes: float | None, overrides: Sequence[str]) -> str:
    began = time.perf_counter()
    from mezzotint.recipes.adapt import Corpus, run, within
    from mezzotint.train.distributed import join
    from mezzotint.train.examples import read_examples
    from mezzotint.train.trainer import Stopped

    if (work / "out").exists():
        raise ValueError(f"the run in {work} is at its end; `return` gives what it made")
    settings = _resolved(work, minutes, overrides)
    checkpoint = opened(work)
    read = read_examples(work / "data", checkpoint.tokenizer, seed=settings.seed)
    text = Corpus(*(within(some, settings.length) for some in read))
    _say(f"{len(text.train)} examples, {len(text.held_out)} held out")
    with join() as ranks, _limit(work, settings.minutes, began) as reached:
        _note_state(work, state="running", why=f"on {ranks.device}", minutes=settings.minutes)
        try:
            run(
                checkpoint, text, settings, work / "out", began=began, say=_say, folder=work / "run",
                resume=(work / "run").exists(), ranks=ranks,
            )  # fmt: skip
        except Stopped:
            if not reached():
                raise
            export(work, work / "out")
            return "the time limit was reached; the adapter is that of the newest checkpoint"
    if (step := _plateau(work)) is not None:
        export(work, work / "plateau", step)
    try:
        _samples(work)
    except Exception as error:  # the adapter is there, and worth more than they are
        _say(f"no samples: {type(error).__name__}: {error}")
    return "all steps done"


def _say(line: str) -> None:
    print(f"note: {line}", file=sys.stderr, flush=True)


def _resolved(work: Path, minutes: float | None, overrides: Sequence[str]) -> Adaptation:
    """The plan's numbers, then those asked for. A run that goes on keeps what it began with, which is noted beside it."""
    plan, note = json.loads((work / "plan" / "plan.json").read_bytes()), work / "asked.json"
    asked = [*overrides, *([f"minutes={minutes}"] if minutes is not None else [])]
    if (work / "run").exists() and note.is_file():
        before = json.loads(note.read_bytes())
        if before["kit"] != _kit(work):
            raise ValueError(f"{work} holds a run of another kit; name another folder (WORK) for this one")
        if asked and asked != before["asked"]:
            raise ValueError(
                f"the run in {work} began with {before['asked'] or 'the plan alone'}; it goes on with that"
            )
        asked = before["asked"]
    settings = settings_of(plan["configuration"], [*plan["overrides"], *asked])
    note.write_text(json.dumps({"asked": asked, "kit": _kit(work)}))
    return settings


def _kit(work: Path) -> str:
    """A hash of all that a run begins with; mended code may go on with it."""
    stamps = json.loads((work / parts.STAMPS).read_bytes())
    return hashlib.sha256(
        json.dumps({n: p for n, p in stamps.items() if n != "code"}, sort_keys=True).encode()
    ).hexdigest()


def opened(work: Path) -> Checkpoint:
    """The base that was unpacked, under the last adapter where there is one. Raises CheckpointError."""
    from mezzotint.checkpoints.blocks import load_blocks

    base = load_blocks(work / "base")
    return base.with_adapter(work / "adapter") if (work / "adapter").is_dir() else base


@contextmanager
def _limit(work: Path, minutes: float | None, began: float) -> Iterator[Callable[[], bool]]:
    """End the run before its minutes are over. -> has that happened?

    While the trainer listens it gets SIGTERM, so that it ends after its step. When it is only measuring what it has
    already saved, the process ends there and then.
    """
    from mezzotint.train import state

    if minutes is None:
        yield lambda: False
        return
    reached = threading.Event()

    def end() -> None:
        reached.set()
        while not callable(signal.getsignal(signal.SIGTERM)):  # the trainer does not listen
            if (work / "out").exists():
                _note_state(work, state="done", why="the time limit was reached while measuring the end")
                os._exit(DONE)
            if not state.steps(work / "run"):
                _note_state(work, state="failed", why="the time limit was reached before the first step", code=FAILED)
                os._exit(FAILED)
            time.sleep(0.2)  # about to save the adapter, or to go on from a checkpoint
        _say("the time limit is near; stopping")
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer((1 - RESERVE) * 60 * minutes - (time.perf_counter() - began), end)
    timer.daemon = True
    timer.start()
    try:
        yield reached.is_set
    finally:
        timer.cancel()


def export(work: Path, out: Path, step: int | None = None) -> None:
    """Make a checkpoint of the run, the newest by default, into an adapter. Raises ValueError when there is none, OSError."""
    from mezzotint.recipes.adapt import adapted, ids_of, network
    from mezzotint.train import state

    checkpoint = opened(work)
    settings = _resolved(work, None, ())
    found = state.newest(work / "run", _say) if step is None else state.verify(state.path_of(work / "run", step))
    if found is None:
        raise ValueError(f"{work} has no checkpoint yet, so there is no adapter")
    facts = adapted(checkpoint.facts, settings)
    denoiser = network(checkpoint, settings, ids_of(checkpoint, facts.shift))
    names = {f"model.{name}": p.detach() for name, p in denoiser.named_parameters() if name.startswith("adapter.")}
    state.load(state.path_of(work / "run", found["step"]), names)
    made = {"configuration": settings.name, "seed": settings.seed, "steps": found["step"], "unfinished": step is None}
    base = checkpoint if checkpoint.adapter is None else _without_adapter(checkpoint)
    shutil.rmtree(out, ignore_errors=True)
    base.save_adapter(out, denoiser, facts, made)


def _without_adapter(checkpoint: Checkpoint) -> Checkpoint:
    from dataclasses import replace

    assert checkpoint.adapter is not None
    return replace(checkpoint, adapter=None, name=checkpoint.adapter.base.name)


def _plateau(work: Path) -> int | None:
    """The step before the rate began to fall, if its checkpoint was kept: a further run goes on better from there."""
    from mezzotint.train import state

    found = state.newest(work / "run", _say)
    step = found["at"]["pre_decay_step"] if found else None
    return step if step and state.path_of(work / "run", step).is_dir() else None


def _samples(work: Path) -> None:
    """WORK/samples.txt: some prompts continued by the new adapter, by diffusion and left to right."""
    import mezzotint as mz
    from mezzotint.checkpoints.blocks import load_blocks

    engine = mz.Engine(load_blocks(work / "base").with_adapter(work / "out"))
    lines = []
    for decode in ("ar", "diffusion"):
        asked = [mz.Request(prompt, raw=True, decode=decode, max_tokens=48, seed=0) for prompt in PROMPTS]
        for prompt, reply in zip(PROMPTS, engine.generate(asked), strict=True):
            lines.append(f"[{decode}, {reply.trace.tokens_per_call:.2f} tokens a call] {prompt}{reply.text}\n")
    (work / "samples.txt").write_text("\n".join(lines), "utf-8")


# -- there: how far it is ----------------------------------------------------------------------------------------------


def status(work: Path) -> tuple[str, int]:
    """One line, and the exit code that says the same."""
    path = work / "state.json"
    if not path.is_file():
        return "not started", NOT_STARTED
    noted = json.loads(path.read_bytes())
    running = is_running(work)
    at = _progress(work / METRICS, running)
    where = f"; {at}" if at else ""
    if running:
        return f"running, {noted['why']}{where or '; no step yet'}", RUNNING
    if noted["state"] == "running":
        return f"killed{where}; the last line of the log: {_last_line(work / 'log')}", STOPPED
    code = {"done": DONE, "stopped": STOPPED}.get(noted["state"], noted.get("code", FAILED))
    return f"{noted['state']}: {noted['why']}{where}", code


def _progress(metrics: Path, running: bool) -> str:
    """Step, loss, speed and, while it is running, the time to go, by the last rows of metrics.jsonl; "" without any."""
    lines = metrics.read_bytes().splitlines()[-RECENT:] if metrics.is_file() else []
    rows: list[Mapping[str, Any]] = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError:  # the last one, not whole yet
            break
    if not rows:
        return ""
    first, last = rows[0], rows[-1]
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    seconds = last["seconds"] - first["seconds"]
    said = [f"step {last['step'] + 1}, {last['share']:.0%}", f"loss {sum(losses) / max(len(losses), 1):.3f}"]
    if seconds > 0:
        said.append(f"{(last['positions'] - first['positions']) / seconds:,.0f} tokens/s")
    if running and last["share"] > 0:
        said.append(f"{last['seconds'] * (1 - last['share']) / last['share'] / 60:.1f} min to go")
    return ", ".join(said)


def stop(work: Path, patience: float = 120.0) -> str:
    """SIGTERM, and wait until the run has ended; -> its status. Raises ValueError when none is going, RuntimeError."""
    if not is_running(work):
        raise ValueError(f"no run is going on in {work}")
    os.kill(json.loads((work / "state.json").read_bytes())["pid"], signal.SIGTERM)
    end = time.monotonic() + patience
    while is_running(work):
        if time.monotonic() > end:
            raise RuntimeError(f"the run has not ended in {patience:.0f} s; it may be in a long step")
        time.sleep(0.1)
    return status(work)[0]


# -- back --------------------------------------------------------------------------------------------------------------


def give(work: Path, out: Path, part_size: float = 16) -> dict[str, Any]:
    """Write what the run has made into `out`, in parts; of a run that is not at its end, the newest checkpoint's adapter.

    -> the manifest. Raises ValueError when there is nothing yet, OSError.
    """
    from mezzotint.checkpoints.adapter import adapter_sha256

    line = status(work)[0]
    if not (work / "out").exists():
        export(work, work / "unfinished")
    adapter = work / ("out" if (work / "out").exists() else "unfinished")
    staged = work / "about"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    (staged / "about.json").write_text(json.dumps({"status": line, "adapter_sha256": adapter_sha256(adapter)}) + "\n")
    for name in (METRICS, "samples.txt", "log", "asked.json", "plan/plan.json"):
        if (work / name).is_file():
            shutil.copy(work / name, staged / Path(name).name)
    folders = {"adapter": adapter, "about": staged}
    folders |= {"plateau": work / "plateau"} if (work / "plateau").exists() else {}
    return parts.split(folders, out, parts.megabytes(part_size))


def collect(back: Path, out: Path, base: str = "base") -> str:
    """Install what came back: `out` appears when every part is whole and the adapter loads on its base; -> the adapter's hash.

    Raises PartsError, CheckpointError, FileExistsError, OSError; then nothing is left behind.
    """
    import mezzotint as mz
    from mezzotint.checkpoints.adapter import adapter_sha256
    from mezzotint.checkpoints.files import whole_folder

    with whole_folder(out) as part:
        parts.join(back, part)
        (part / parts.STAMPS).unlink()
        said = json.loads((part / "about" / "about.json").read_bytes())["adapter_sha256"]
        if (actual := adapter_sha256(part / "adapter")) != said:
            raise parts.PartsError(f"{back}: the adapter's SHA-256 is {actual}; what was sent says {said}")
        checkpoint = mz.load(base)
        for name in ("adapter", "plateau"):
            if (part / name).is_dir():
                checkpoint.with_adapter(part / name).denoiser()
    return actual


# -- commands ----------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    """argparse, since a newer typer needs packages that the other machine may not have. KEY=VALUE settings are not in it."""
    parser = argparse.ArgumentParser(
        "kit", description="An adaptation on another machine; docs/guides/gpu.md is the manual."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    def verb(name: str, text: str, *folders: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        for folder in folders:
            made.add_argument(folder, type=Path)
        return made

    size = "largest part, in MB, millions of bytes (default %(default)s)"
    packing = verb("pack", "Write a kit, in parts.", "out")
    packing.add_argument("--data", type=Path, required=True, help="examples, as `mezzotint data examples` writes them")
    packing.add_argument("--base", default="base", help="the model that learns")
    packing.add_argument("--adapter", type=Path, help="the last adapter, to go on from")
    packing.add_argument("--configuration", default="gpu-30min", help="as in `mezzotint adapt`")
    packing.add_argument("--part-size", type=float, default=48, help=size)
    for name, text in (("run", "Start, or go on, in the background."), ("train", "The same in the foreground.")):
        running = verb(name, text, "work")
        running.add_argument("--minutes", type=float, help="the time limit, loading and measuring included")
    asking = verb("status", "Step, loss, tokens/s, time to go. Exit code: 0 done, 1 failed, 3 diverged, 10 running, "
                  "11 stopped or killed, 12 not started.", "work")  # fmt: skip
    asking.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="wait so long for the end first")
    verb("stop", "End the run after its step; `run` goes on with it.", "work")
    giving = verb("return", "Write what the run has made, in parts.", "work", "out")
    giving.add_argument("--part-size", type=float, default=16, help=size)
    collecting = verb("collect", "Verify what came back and install it.", "back", "out")
    collecting.add_argument("--base", default="base", help="the model that it was learnt on")
    return parser


def _do(asked: argparse.Namespace) -> int:
    """A verb; -> the exit code."""
    match asked.verb:
        case "pack":
            manifest = pack(
                asked.out, asked.data, asked.base, asked.adapter, asked.configuration, asked.overrides, asked.part_size
            )
            sizes = {name: sum(part["size"] for part in some) for name, some in manifest["archives"].items()}
            told = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.items())
            count = sum(map(len, manifest["archives"].values()))
            print(f"{count} parts, {sum(sizes.values()) / 1e6:.1f} MB: {told}", file=sys.stderr)
            print(asked.out)
        case "run":
            begun = start(asked.work, asked.minutes, asked.overrides)
            print(f"running as process {begun.pid}; ask for its status")
        case "train":
            train(asked.work, asked.minutes, asked.overrides)
        case "status":
            end = time.monotonic() + asked.wait
            while is_running(asked.work) and time.monotonic() < end:
                time.sleep(min(1.0, max(0.0, end - time.monotonic())))
            line, code = status(asked.work)
            print(line)
            return code
        case "stop":
            print(stop(asked.work))
        case "return":
            manifest = give(asked.work, asked.out, asked.part_size)
            for name in sorted(part["name"] for some in manifest["archives"].values() for part in some):
                print(asked.out / name)
            print(asked.out / parts.MANIFEST)
        case "collect":
            print(f"adapter {collect(asked.back, asked.out, asked.base)}", file=sys.stderr)
            print(asked.out / "adapter")
    return DONE


def main() -> None:
    """Errors that a user can cause are one sentence; MEZZOTINT_DEBUG=1 shows the rest."""
    parser = _parser()
    asked, settings = parser.parse_known_args()
    asked.overrides = settings
    for word in settings:
        if word.startswith("-") or "=" not in word or asked.verb not in ("pack", "run", "train"):
            parser.error(f"{word!r} is not understood here; settings are KEY=VALUE, for pack and run")
    try:
        code = _do(asked)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("MEZZOTINT_DEBUG"):
            raise
        failed = (
            isinstance(error, OSError | RuntimeError | parts.PartsError) or type(error).__name__ == "CheckpointError"
        )
        print(f"kit: {error or type(error).__name__}", file=sys.stderr)
        code = getattr(error, "exit_code", FAILED if failed else BAD_INPUT)
    sys.exit(code)


if __name__ == "__main__":
    main()
