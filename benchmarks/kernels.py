"""Which kernels multiply int8 weights fastest on this processor: the linears of the default model, nothing else.

    x [T, 576] -> 30 times: qkv 576x960, out 576x576, gate_up 576x3072, down 1536x576      106 million weights

Each candidate is a process of its own that runs the whole stack with random weights over 1 .. 512 positions; candidates
take turns, and the table holds the best of `--rounds` turns: the machine's noise only adds. Packages that are not installed are
left out. The error is that of the whole stack beside float32 products: 120 linears, without the residuals of a network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import report

LAYERS, WIDTH, INNER, SHAPES = (
    30,
    576,
    1536,
    {"qkv": (960, 576), "out": (576, 576), "gate_up": (3072, 576), "down": (576, 1536)},
)
POSITIONS = (1, 2, 4, 8, 16, 32, 64, 512)
Run = Callable[[np.ndarray], np.ndarray]


def weights() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {name: rng.standard_normal(shape, dtype=np.float32) * shape[1] ** -0.5 for name, shape in SHAPES.items()}
        for _ in range(LAYERS)
    ]


def rounded(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = np.abs(weight).max(1, keepdims=True) / np.float32(127)
    return np.rint(weight / scale).astype(np.int8), scale


def torch_stack(kind: str, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)

    def brain(w, x):
        return (x.bfloat16() @ w.T).float()

    def int8pack(w, scale, x):
        return torch._weight_int8pack_mm(x.bfloat16(), w, scale).float()

    made: list[dict[str, Callable]] = []
    for layer in weights():
        row = {}
        for name, weight in layer.items():
            values, scale = (torch.from_numpy(a) for a in rounded(weight))
            if kind == "float32":
                row[name] = partial(torch.nn.functional.linear, weight=torch.from_numpy(weight))
            elif kind == "bfloat16":
                row[name] = partial(brain, torch.from_numpy(weight).bfloat16())
            elif kind == "weight_int8pack_mm":
                row[name] = partial(int8pack, values, scale[:, 0].bfloat16())
            elif kind == "int_mm":

                def product(x, w=values.T, s=scale.T):
                    per = x.abs().amax(-1, keepdim=True) / 127
                    return torch._int_mm((x / per).round().to(torch.int8), w).float() * per * s

                row[name] = product
            elif kind == "fbgemm":
                q = torch.quantize_per_tensor(torch.from_numpy(weight), float(scale.max()), 0, torch.qint8)
                packed = torch.ops.quantized.linear_prepack(q, None)
                row[name] = lambda x, p=packed: torch.ops.quantized.linear_dynamic(x, p, True)
        made.append(row)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y = torch.from_numpy(x)
            for row in made:
                y = row["out"](row["qkv"](y)[:, :WIDTH])
                y = row["down"](row["gate_up"](y)[:, :INNER])
            return y.numpy()

    return run


def torchao_stack(threads: int) -> Run:
    import torch
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    torch.set_num_threads(threads)
    modules = []
    for layer in weights():
        row = torch.nn.ModuleDict()
        for name, weight in layer.items():
            linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            linear.weight.data = torch.from_numpy(weight)
            row[name] = linear
        modules.append(row)
    stack = torch.nn.ModuleList(modules)
    quantize_(stack, Int8DynamicActivationInt8WeightConfig())

    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y = torch.from_numpy(x)
            for row in stack:
                y = row["out"](row["qkv"](y)[:, :WIDTH])
                y = row["down"](row["gate_up"](y)[:, :INNER])
            return y.numpy()

    return run


def openvino_stack(kind: str, threads: int) -> Run:
    import openvino as ov
    from openvino import opset13 as op

    x = op.parameter([-1, WIDTH], np.float32)
    y: ov.Node = x

    def linear(y, weight):
        if kind == "int4":  # groups of 32, as in Q4_1
            groups = weight.reshape(weight.shape[0], -1, 32)
            low = groups.min(-1, keepdims=True)
            scale = (groups.max(-1, keepdims=True) - low) / 15
            q = np.rint((groups - low) / scale).astype(np.uint8)
            zero = np.clip(np.rint(-low / scale), 0, 15).astype(np.uint8)
            table = op.convert(op.constant(q, ov.Type.u4), np.float32)
            table = op.subtract(table, op.convert(op.constant(zero, ov.Type.u4), np.float32))
            table = op.reshape(op.multiply(table, op.constant(scale)), op.constant(list(weight.shape)), False)
        else:
            values, scale = rounded(weight)
            table = op.multiply(op.convert(op.constant(values), np.float32), op.constant(scale))
        return op.matmul(y, table, False, True)

    def cut(y, count):
        return op.slice(y, op.constant([0]), op.constant([count]), op.constant([1]), op.constant([1]))

    for layer in weights():
        y = linear(cut(linear(y, layer["qkv"]), WIDTH), layer["out"])
        y = linear(cut(linear(y, layer["gate_up"]), INNER), layer["down"])
    groups = {"int8 weights only": "0", "int8 groups": "64", "int8": str(2**64 - 1), "int4": "32"}
    settings = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": groups[kind],
    }  # fmt: skip
    compiled = ov.Core().compile_model(ov.Model([op.result(y)], [x], "stack"), "CPU", settings)
    request = compiled.create_infer_request()

    def run(x: np.ndarray) -> np.ndarray:
        request.set_input_tensor(ov.Tensor(x))
        request.infer()
        return request.get_output_tensor().data

    return run


def onnx_stack(kind: str, threads: int) -> Run:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    nodes, tables, name = [], [], "x"

    def linear(name: str, weight: np.ndarray) -> str:
        at = f"n{len(nodes)}"
        out, inputs = weight.shape
        if kind in ("int4", "int8"):
            bits, most = (4, 15) if kind == "int4" else (8, 255)
            size = 32
            groups = weight.reshape(out, -1, size)
            low = np.minimum(groups.min(-1, keepdims=True), 0)
            scale = (groups.max(-1, keepdims=True) - low) / most
            q = np.clip(np.rint(groups / scale) + np.rint(-low / scale), 0, most).astype(np.uint8)
            zero = np.clip(np.rint(-low / scale), 0, most).astype(np.uint8)[..., 0]
            if bits == 4:
                q = q[..., ::2] | (q[..., 1::2] << 4)
                zero = zero if zero.shape[1] % 2 == 0 else np.pad(zero, ((0, 0), (0, 1)))
                zero = zero[:, ::2] | (zero[:, 1::2] << 4)
            for tail, array in (("w", q), ("s", scale[..., 0].astype(np.float32)), ("z", zero)):
                tables.append(numpy_helper.from_array(np.ascontiguousarray(array), at + tail))
            nodes.append(helper.make_node(
                "MatMulNBits", [name, at + "w", at + "s", at + "z"], [at], domain="com.microsoft", K=inputs, N=out,
                bits=bits, block_size=size, accuracy_level=4,
            ))  # fmt: skip
        else:
            values, scale = rounded(weight)
            tables.append(numpy_helper.from_array(np.ascontiguousarray(values.T), at + "w"))
            tables.append(numpy_helper.from_array(scale[:, 0].copy(), at + "s"))
            nodes.append(
                helper.make_node("DynamicQuantizeMatMul", [name, at + "w", at + "s"], [at], domain="com.microsoft")
            )
        return at

    def cut(name: str, count: int) -> str:
        at = f"n{len(nodes)}"
        for tail, value in (("a", [0]), ("b", [count]), ("c", [1])):
            tables.append(numpy_helper.from_array(np.array(value), at + tail))
        nodes.append(helper.make_node("Slice", [name, at + "a", at + "b", at + "c"], [at]))
        return at

    for layer in weights():
        name = linear(cut(linear(name, layer["qkv"]), WIDTH), layer["out"])
        name = linear(cut(linear(name, layer["gate_up"]), INNER), layer["down"])
    graph = helper.make_graph(
        nodes, "stack", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["T", WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["T", WIDTH])], tables,
    )  # fmt: skip
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=10
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


CANDIDATES: dict[str, Callable[[int], Run]] = {
    "torch float32": lambda n: torch_stack("float32", n),
    "torch bfloat16": lambda n: torch_stack("bfloat16", n),
    "torch _weight_int8pack_mm": lambda n: torch_stack("weight_int8pack_mm", n),
    "torch _int_mm, a scale a row": lambda n: torch_stack("int_mm", n),
    "torch quantized.linear_dynamic (FBGEMM)": lambda n: torch_stack("fbgemm", n),
    "torchao int8 dynamic": torchao_stack,
    "OpenVINO int8 weights, float32 products": lambda n: openvino_stack("int8 weights only", n),
    "OpenVINO int8, dynamic, a scale a row if it can": lambda n: openvino_stack("int8", n),
    "OpenVINO int8, dynamic, groups of 64": lambda n: openvino_stack("int8 groups", n),
    "OpenVINO int4 groups of 32, dynamic": lambda n: openvino_stack("int4", n),
    "ONNX Runtime DynamicQuantizeMatMul": lambda n: onnx_stack("dynamic", n),
    "ONNX Runtime MatMulNBits 8": lambda n: onnx_stack("int8", n),
    "ONNX Runtime MatMulNBits 4": lambda n: onnx_stack("int4", n),
}


def child(name: str, threads: int, repeats: int) -> None:
    """One candidate: {positions: best seconds} and its error, as JSON."""
    clock = time.process_time if os.environ.get("MEZZOTINT_CPU_TIME") else time.perf_counter
    run = CANDIDATES[name](threads)
    rng, best = np.random.default_rng(1), {}
    for count in POSITIONS:
        x, times = rng.standard_normal((count, WIDTH), dtype=np.float32), []
        for _ in range(max(2, repeats // (1 + count // 64))):
            began = clock()
            run(x)
            times.append(clock() - began)
        best[count] = min(times)
    x = rng.standard_normal((4, WIDTH), dtype=np.float32)
    want = x
    for layer in weights():
        want = (want @ layer["qkv"].T)[:, :WIDTH] @ layer["out"].T
        want = (want @ layer["gate_up"].T)[:, :INNER] @ layer["down"].T
    error = float(np.linalg.norm(run(x) - want) / np.linalg.norm(want))
    print(json.dumps({"best": best, "error": error}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.threads, args.repeats)
        return
    found: dict[str, dict] = {}
    for _ in range(args.rounds):
        for name in CANDIDATES:
            if args.only not in name:
                continue
            command = [
                sys.executable,
                __file__,
                "--child",
                name,
                "--threads",
                str(args.threads),
                "--repeats",
                str(args.repeats),
            ]
            done = subprocess.run(command, capture_output=True, text=True)
            print(name, done.stdout.strip(), done.stderr.strip()[-300:], file=sys.stderr)
            if done.returncode == 0:
                result = json.loads(done.stdout)
                had = found.setdefault(name, result)
                had["best"] = {n: min(t, had["best"][n]) for n, t in result["best"].items()}
    rows = [(name, f"{r['error']:.1%}", *(1e3 * t for t in r["best"].values())) for name, r in found.items()]
    lines = [
        f"Milliseconds for the linears of one forward, {args.threads} threads, best of {args.rounds} rounds. {flags()}",
        "",
    ]
    lines += report.table(["kernel", "error", *POSITIONS], rows)
    report.write("kernels", "Kernels for int8 weights", lines)


def flags() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    have = [f for f in ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8") if f" {f}" in text]
    return f"Instructions of use here: {', '.join(have) or 'none'}."


if __name__ == "__main__":
    main()
