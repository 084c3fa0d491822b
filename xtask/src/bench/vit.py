"""The peers of the benchmark `vit`, with timm's ViT-S/16. The first argument is the folder that timm was installed into.

`make WEIGHTS MODEL`: writes random weights, and what `torch.onnx` makes of them. `onnx OURS THEIRS`: images/s of both models in
ONNX Runtime with the same settings, in turns; their embeddings have to agree. `train`: images/s of a step of iBOT as one writes
it in PyTorch (arXiv 2111.07832: head, block-wise masks, both losses, AdamW, clipping, moving average), on views that lie ready,
which ours makes from pictures."""

import copy
import json
import math
import statistics
import sys
import time

packages, what, *rest = sys.argv[1:]
sys.path.append(packages)

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

BATCH, LOCALS, PROTOTYPES, WARM, STEPS = 4, 4, 8192, 1, 3


def network(**flags):
    return timm.create_model("vit_small_patch16_224", num_classes=0, **flags)


def make(weights, model):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = network().eval()
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, weights)
    torch.onnx.export(
        net, torch.zeros(1, 3, 224, 224), model, opset_version=17, dynamo=False,
        input_names=["pixel_values"], output_names=["embedding"], dynamic_axes={"pixel_values": {0: "batch"}, "embedding": {0: "batch"}},
    )
    return {}


def onnx(*paths):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths]
    figures = {}
    for batch, turns in ((1, 40), (8, 10)):
        images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224), np.float32)
        seconds, answers = ([], []), []
        for turn in range(turns + 1):
            # who comes first changes
            for i in (0, 1) if turn % 2 else (1, 0):
                began = time.perf_counter()
                answer = sessions[i].run(None, {"pixel_values": images})[0]
                if turn:
                    seconds[i].append(time.perf_counter() - began)
                else:
                    answers.append(answer / np.linalg.norm(answer, axis=1, keepdims=True))
        if (apart := float(np.abs(answers[0] - answers[1]).max())) > 1e-4:
            sys.exit(f"error: the models' embeddings are {apart} apart")
        for name, times in zip(("ours", "peer"), seconds):
            figures[f"{name}.{batch}"] = batch / statistics.median(times)
    return figures


class Head(nn.Module):
    """From tokens to normalised features of 256 channels, and on to the prototypes, which have length one."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(384, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256))
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(256, PROTOTYPES, bias=False))

    def forward(self, x):
        return self.last(F.normalize(self.mlp(x), dim=-1))


class Branch(nn.Module):
    def __init__(self, drop):
        super().__init__()
        self.net = network(dynamic_img_size=True, drop_path_rate=drop)
        self.token = nn.Parameter(torch.zeros(384))
        self.head = Head()

    def forward(self, x, mask=None):
        """Normalised tokens, the class token first; masked patches are replaced."""
        x = self.net.patch_embed(x)
        if mask is not None:
            x = torch.where(mask.view(x.shape[:-1])[..., None], self.token, x)
        return self.net.norm(self.net.blocks(self.net._pos_embed(x)))


def blocks(random, side=14):
    """Rectangles over 10 % to 50 % of the patches of half of the pictures, or of the first."""
    masks = np.zeros((2 * BATCH, side, side), bool)
    for i in np.flatnonzero(random.random(2 * BATCH) < 0.5).tolist() or [0]:
        wanted = random.uniform(0.1, 0.5) * side * side
        while masks[i].sum() < wanted:
            area, ratio = random.uniform(4, wanted), math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
            h, w = (min(max(round(math.sqrt(area * r)), 1), side) for r in (ratio, 1 / ratio))
            top, left = random.integers(side - h + 1), random.integers(side - w + 1)
            masks[i, top : top + h, left : left + w] = True
    return torch.from_numpy(masks.reshape(2 * BATCH, -1))


def distilled(student, target):
    return -(target * F.log_softmax(student / 0.1, -1)).sum(-1)


class Ibot:
    def __init__(self):
        self.student = Branch(0.1)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        self.centers = [torch.zeros(PROTOTYPES), torch.zeros(PROTOTYPES)]
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-4, weight_decay=0.04)

    def taught(self, pair):
        """What the teacher says of class tokens and of patches, less the centres, which move."""
        tokens = self.teacher(pair)
        found = []
        for i, part in enumerate((tokens[:, 0], tokens[:, 1:])):
            said = self.teacher.head(part)
            found.append(((said - self.centers[i]) / 0.04).softmax(-1))
            self.centers[i].lerp_(said.flatten(0, -2).mean(0), 0.1)
        return found

    def step(self, pair, small, mask):
        with torch.no_grad():
            classes, patches = self.taught(pair)
        tokens = self.student(pair, mask)
        locals_ = self.student(small)[:, 0]
        said = self.student.head(torch.cat([tokens[:, 0], locals_])).chunk(2 + LOCALS)
        pairs = [(i, j) for i in range(2) for j in range(2 + LOCALS) if i != j]
        loss = sum(distilled(said[j], classes.chunk(2)[i]).mean() for i, j in pairs) / len(pairs)
        hidden = distilled(self.student.head(tokens[:, 1:][mask]), patches[mask])
        share = mask.sum(1).clamp(min=1)[:, None].expand_as(mask)[mask]
        loss = loss + (hidden / share).sum() / len(mask)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.student.parameters():
            if parameter.grad is not None:
                nn.utils.clip_grad_norm_([parameter], 3.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 0.004)


def train():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    method = Ibot()
    pair, small = torch.randn(2 * BATCH, 3, 224, 224), torch.randn(LOCALS * BATCH, 3, 96, 96)
    seconds = []
    for _ in range(WARM + STEPS):
        began = time.perf_counter()
        method.step(pair, small, blocks(random))
        seconds.append(time.perf_counter() - began)
    return {"images_per_s": BATCH * STEPS / sum(seconds[WARM:])}


print(json.dumps({"make": make, "onnx": onnx, "train": train}[what](*rest)))
