"""Models of vision transformers in ONNX Runtime.

`kernels MODEL`: how many operations of integers the optimised graph has, and how far the answer for a picture alone is from
that within a batch.
`fused MODEL WIDE`: operations of the optimised graph, tokens that the perceptrons read, and how far its outputs are from those
of a model that computes all tokens everywhere.
`sizes FILE MODEL`: the largest error of a model of any size beside PyTorch with the same weights, on pictures that are not
square, too; positions are resized by `interpolate`."""

import json
import sys
import tempfile
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

HEADS = 2


def kernels(path):
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    onnx.checker.check_model(path, full_check=True)
    count = lambda *ops: sum(node.op_type in ops for node in nodes)  # noqa: E731
    given = session.get_inputs()[0]
    images = np.random.default_rng(0).normal(size=(5, *given.shape[1:])).astype(np.float32)
    images[1:] *= 10  # what lies beside a picture has another range
    answer = lambda images: session.run(["embedding"], {given.name: images})[0][0]  # noqa: E731
    return {
        "integers": count("MatMulIntegerToFloat", "QLinearMatMul", "MatMulInteger"),
        "dynamic": count("DynamicQuantizeLinear", "DynamicQuantizeMatMul"),
        "left": count("DequantizeLinear"),
        "apart": float(np.abs(answer(images) - answer(images[:1])).max()),
    }


def fused(path, wide):
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = f"{folder}/optimised.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        nodes = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    onnx.checker.check_model(path, full_check=True)
    shapes = onnx.shape_inference.infer_shapes(onnx.load(path)).graph.value_info
    rows = {value.name: value.type.tensor_type.shape.dim[1].dim_value for value in shapes if value.name.endswith("fc1")}
    given = session.get_inputs()[0]
    images = np.random.default_rng(0).normal(size=(3, *given.shape[1:])).astype(np.float32)
    other = onnxruntime.InferenceSession(wide, providers=["CPUExecutionProvider"])
    names = ["embedding", "saliency"]
    apart = [np.abs(a - b).max() for a, b in zip(*(s.run(names, {given.name: images}) for s in (session, other)))]
    return {"nodes": nodes, "all": nodes.total(), "rows": rows, **dict(zip(names, map(float, apart)))}


@torch.no_grad()
def tokens(state, x):
    """The normalised tokens, and the class token's attention to patches in the last block."""
    weight = state["patch_embed.proj.weight"]
    x = F.conv2d(x, weight, state["patch_embed.proj.bias"], stride=weight.shape[-1])
    n, d, h, w = x.shape
    own, grid = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    side = round(grid.shape[1] ** 0.5)
    grid = grid.reshape(1, side, side, d).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (h, w), mode="bicubic", antialias=True)
    x = torch.cat([(state["cls_token"] + own).expand(n, -1, -1), (x + grid).flatten(2).mT], 1)
    norm = lambda x, k: F.layer_norm(x, (d,), state[f"{k}.weight"], state[f"{k}.bias"], 1e-6)  # noqa: E731
    linear = lambda x, k: F.linear(x, state[f"{k}.weight"], state[f"{k}.bias"])  # noqa: E731
    for i in range(2):
        qkv = linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv")
        q, k, v = qkv.reshape(n, -1, 3, HEADS, d // HEADS).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / (d // HEADS) ** 0.5).softmax(-1)
        x = x + linear((attention @ v).transpose(1, 2).reshape(n, -1, d), f"blocks.{i}.attn.proj")
        y = F.gelu(linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1"))
        x = x + linear(y, f"blocks.{i}.mlp.fc2")
    return norm(x, "norm"), attention[:, :, 0, 1:].mean(1).reshape(n, h, w)


def sizes(file, path):
    onnx.checker.check_model(path, full_check=True)
    state, session = load_file(file), onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = {}
    for height, width in [(16, 16), (8, 8), (24, 24), (12, 40), (52, 20)]:
        torch.manual_seed(height)
        images = torch.randn(2, 3, height, width)
        expected = dict(zip(("tokens", "saliency"), tokens(state, images)))
        for name, want in expected.items():
            found = session.run([name], {"pixel_values": images.numpy()})[0]
            assert found.shape == tuple(want.shape), (name, found.shape, want.shape)
            worst[f"{name} {height}x{width}"] = float(np.abs(found - want.numpy()).max())
    return worst


what, *rest = sys.argv[1:]
print(json.dumps({"kernels": kernels, "fused": fused, "sizes": sizes}[what](*rest)))
