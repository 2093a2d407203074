"""One network on several ranks: `python split_ranks.py SIZE WRITING [FAMILY...]` prints as JSON what toy checkpoints say there.

distance: between the logits of all ranks together and of one process, in float32 and in float64; same: do all ranks have
the same bits? Where WRITING is 1 the causal ones write too.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
import toy_folder
from campaign import end, start
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import parallel  # noqa: F401  # loaded once, before ranks are forked

import mezzotint as mz
from mezzotint.checkpoints.load import Checkpoint, Facts, load
from mezzotint.checkpoints.tokenizer import Tokenizer
from mezzotint.engine.engine import Engine
from mezzotint.model.adapter import AdapterConfig
from mezzotint.model.config import ModelConfig
from mezzotint.model.denoiser import Denoiser
from mezzotint.model.visibility import CLEAN, Places, context_causal, full

LETTERS = [chr(ord("A") + i) for i in range(40)]
TEXT = [3, 17, 8, 30, 5, 22, 11, 36, 2, 27, 14, 9]


def said(network, causal: bool) -> torch.Tensor:
    """Logits of one pass; then of three behind a cache, and a canvas behind that: all `[.., V]` in one."""
    tokens, count = torch.tensor([TEXT, TEXT[::-1]]), len(TEXT)
    more = {} if network.level_input is None else {"sigma": torch.tensor([0.4, 2.0])}
    places = Places.of(torch.arange(count).expand(2, -1), torch.full((2, count), CLEAN))
    found = [network(tokens, places, context_causal() if causal else full(), **more).logits]
    cache = network.new_cache(2, count + 4)
    network.read(tokens[:, :4], torch.tensor([4, 4]), cache)
    network.read(tokens[:, 4:8], torch.tensor([4, 2] if causal else [4, 4]), cache)
    if cache.ahead is not None:
        found.append(cache.ahead[:, None])
    positions, valid = cache.lengths[:, None] + torch.arange(4), torch.ones(2, 4, dtype=torch.bool)
    found.append(network.denoise(tokens[:, 8:], positions, valid, cache, **more))
    if network.self_conditioned:
        heard = network.encode_feedback(found[-1])
        found.append(network.denoise(tokens[:, 8:], positions, valid, cache, None, heard))
    return torch.cat(found, 1)


def written(checkpoint, mesh, decode: str) -> list[list[int]]:
    requests = [mz.Request("ABCDEF", raw=True, decode=decode, max_tokens=10, temperature=t, seed=5) for t in (0.0, 0.9)]
    engine = Engine(checkpoint, mesh=mesh)
    return [engine.generate(request)[0].ids for request in requests]


def odd(vocabulary: int) -> Checkpoint:
    """A Llama in memory whose vocabulary nothing divides, head and embedding tied."""
    torch.manual_seed(1)
    config = ModelConfig(vocabulary, 32, 2, 4, 2, 8, 48, 64, tied_head=True)
    return Checkpoint.of(Denoiser(config), "odd", Tokenizer.of_tokens(LETTERS), Facts())


def main(size: int, writing: bool, names: list[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as top:
        for name in names:
            toy_folder.write(name, Path(top) / name)
            Tokenizer.of_tokens(LETTERS).to_file(Path(top) / name / "tokenizer.json")

        def work(ranks) -> None:
            mesh = init_device_mesh("cpu", (ranks.size,))
            found = {}
            for name in [*names, "odd"]:
                checkpoint = odd(41) if name == "odd" else load(Path(top) / name)
                try:
                    network = checkpoint.denoiser(mesh=mesh)
                except ValueError as error:
                    found[name] = {"refused": str(error)}
                    continue
                causal = network.reader is None
                whole = checkpoint.denoiser()
                with torch.no_grad():
                    double = {"dtype": torch.float64}
                    ours, theirs = (said(checkpoint.denoiser(mesh=m, **double), causal) for m in (mesh, None))
                    exact = float((ours - theirs).abs().max())
                    ours, theirs = said(network, causal), said(whole, causal)
                    told = [ours.double().sum().item(), ours.abs().double().sum().item()]
                here = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in network.parameters())
                found[name] = {
                    "distance": float((ours - theirs).abs().max()),
                    "exact": exact,
                    "largest": float(theirs.abs().max()),
                    "same": len({tuple(row) for row in ranks.gather(told)}) == 1,
                    "held": here / sum(p.numel() for p in whole.parameters()),
                }
                if causal and writing:
                    ways = ("verified", "ar")
                    found[name] |= {"tokens": [written(checkpoint, mesh, way) for way in ways]}
                    found[name] |= {"alone": [written(checkpoint, None, way) for way in ways]}
            saved = odd(40).denoiser(mesh=mesh).slots
            if ranks.first:
                wrong = {}
                adapted = odd(40)
                adapted.stored.adapt(AdapterConfig(2, 4, control_ids=(36, 37, 38, 39)))
                for what, call in {
                    "int8": lambda: odd(40).denoiser(quantize="int8", mesh=mesh),
                    "adapter": lambda: adapted.denoiser(mesh=mesh),
                    "saved": saved,
                }.items():
                    try:
                        call()
                    except ValueError as error:
                        wrong[what] = str(error)
                (Path(top) / "found").write_text(json.dumps({"found": found, "wrong": wrong}))

        codes = end(start(work, size))
        print(json.dumps({"codes": codes, **json.loads((Path(top) / "found").read_text())}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:] or toy_folder.NAMES)
