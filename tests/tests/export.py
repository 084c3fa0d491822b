"""Checkpoints and ONNX models of `occlude-export` against torchvision.

`make FILE [ARCH]`: writes a MoCo-like checkpoint of a ResNet-18 (or ARCH) whose statistics are not the initial ones.
`make-lewel FILE`: the same as LEWEL's repository has it, with the necks, predictors and target of its pretraining.
`compare FILE SIDE MODEL...`: runs each model in ONNX Runtime on random pictures of that side, after the checker's full
check, and prints for each the largest error of every output (maps: as a share of their largest value) and the least
cosine of the vectors; `golden` is the cosine between the answer that the file has for its golden picture and
torchvision's for what Pillow makes of it.
`values FOLDER`: writes checkpoints with values that no model can compute with, or that fp16 cannot hold.
`load FILE WRITTEN...`: loads what was written from FILE back into torchvision, strictly; prints whether all is equal."""

import base64
import io
import json
import sys

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
import torchvision
import torchvision.transforms as T
from PIL import Image
from safetensors.torch import load_file

PREFIX = "module.encoder_q."


def network(arch="resnet18"):
    net = torchvision.models.__dict__[arch.removesuffix("-small")]()
    if arch.endswith("-small"):
        net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
    net.fc = torch.nn.Sequential(torch.nn.Linear(net.fc.in_features, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    return net


def make(path, arch="resnet18"):
    torch.manual_seed(5)
    net = network(arch)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    with torch.no_grad():
        for _ in range(20):  # the running statistics settle
            net(torch.randn(16, 3, 64, 64))
    state = {PREFIX + k: v for k, v in net.state_dict().items()}
    torch.save({"epoch": 3, "arch": arch, "state_dict": state}, path)


LEWEL = "module.online_net."


class Neck(torch.nn.Sequential):
    """LEWEL's projection head: convolutions of one position."""

    def __init__(self, inputs, hidden, outputs):
        conv = lambda i, o: torch.nn.Conv1d(i, o, 1, bias=False)
        super().__init__(conv(inputs, hidden), torch.nn.BatchNorm1d(hidden), torch.nn.ReLU(), conv(hidden, outputs))

    def forward(self, x):
        return super().forward(x) if x.ndim == 3 else super().forward(x.unsqueeze(2)).squeeze(2)


def make_lewel(path):
    make(path)
    net = reference(path)
    state = {LEWEL + "backbone." + k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    for name, widths in [("neck.proj", (512, 96, 32)), ("neck.proj_obj", (512, 96, 32))]:
        neck = Neck(*widths)
        with torch.no_grad():
            for _ in range(20):
                neck(torch.rand(16, 512, 5))
        state |= {f"{LEWEL}{name}.mlp.{k}": v for k, v in neck.state_dict().items()}
    state |= {k.replace("online_net", "target_net"): v * 0.5 for k, v in state.items()}
    for name in ("predictor", "predictor_obj"):
        state |= {f"module.{name}.mlp.{k}": v for k, v in Neck(32, 48, 32).state_dict().items()}
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": state}, path)


def lewel(state):
    net = network()
    backbone = LEWEL + "backbone."
    net.fc = torch.nn.Identity()
    net.load_state_dict({k.removeprefix(backbone): v for k, v in state.items() if k.startswith(backbone)})
    neck = Neck(512, 96, 32)
    head = LEWEL + "neck.proj.mlp."
    neck.load_state_dict({k.removeprefix(head): v for k, v in state.items() if k.startswith(head)})
    net.fc, net.aligns = neck, True
    return net.eval()


@torch.no_grad()
def values(folder):
    torch.manual_seed(7)
    plain = torchvision.models.resnet18().state_dict()

    def write(name, key=None, change=None):
        state = {k: v.clone() for k, v in plain.items()}
        if key:
            change(state[key])
        torch.save(state, f"{folder}/{name}.pth")

    def first(value):
        return lambda tensor: tensor.view(-1)[0].fill_(value)

    write("plain")
    write("nan", "layer2.0.conv1.weight", first(float("nan")))
    write("infinite", "bn1.bias", first(float("inf")))
    write("negative", "layer1.1.bn2.running_var", first(-0.5))
    write("large", "layer3.0.conv1.weight", first(1e6))
    # The weights fit, and what they make of a picture does not.
    write("loud", "layer1.0.bn1.weight", lambda tensor: tensor.fill_(2e5))
    write("small", "layer4.1.conv2.weight", lambda tensor: tensor.mul_(1e-6))


def reference(path):
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["state_dict"]
    if any(k.startswith(LEWEL) for k in state):
        return lewel(state)
    net = network(checkpoint["arch"])
    net.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items()})
    return net.eval()


def scaled(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low + 1e-6)


def border_cells(x):
    return torch.cat([x[:, :, 0], x[:, :, -1], x[:, :, :, 0], x[:, :, :, -1]], 2)


def saliency(rule, features, pixels, std):
    """docs/maps.md's rules, in double precision."""
    features, pixels = features.double(), pixels.double()
    if rule == "sum":
        return features.sum(1)
    if rule == "border":
        mean = border_cells(features).mean(2)[:, :, None, None]
        return 1 - F.cosine_similarity(features, mean.expand_as(features), dim=1)
    h, w = features.shape[2:]
    across = lambda n: ((torch.arange(n, dtype=torch.float64) + 0.5) / n - 0.5) / 0.22
    middle = torch.exp(-0.5 * (across(h)[:, None] ** 2 + across(w)[None] ** 2))
    spread, mean = torch.std_mean(features, (2, 3), correction=0, keepdim=True)
    cells = F.normalize((features - mean) / (spread + 1e-6), dim=1)
    inner = (cells * middle).sum((2, 3)) / middle.sum()
    outer = (cells * (1 - middle)).sum((2, 3)) / (1 - middle).sum()
    along = torch.einsum("bchw,bc->bhw", cells, inner - outer)
    side, stride = pixels.shape[2], 1
    while -(-side // stride) > h:
        stride *= 2
    fine = max(stride // 4, 1)
    opponent = torch.tensor([[0.8 / 3] * 3, [1.6, -1.6, 0], [0.6, 0.6, -1.2]], dtype=torch.float64)
    rgb = F.avg_pool2d(pixels * torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1), fine, ceil_mode=True)
    colours = torch.einsum("oc,bchw->bohw", opponent, rgb)
    sides = (colours[:, :, 0], colours[:, :, -1], colours[:, :, :, 0], colours[:, :, :, -1])
    border = torch.cat([F.avg_pool1d(side, 8, ceil_mode=True) for side in sides], 2).mT
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    uniform = torch.exp(-torch.cdist(border, border, **exact) ** 2 / (2 * 0.05**2)).mean((1, 2))[:, None, None]
    rows, columns = colours.shape[2:]
    # as many fine cells as whole cells have, of which the last ones may lie outside of the picture
    alike = F.interpolate(scaled(along)[:, None], scale_factor=stride // fine, mode="bilinear", align_corners=False)
    alike = alike[:, 0, :rows, :columns]
    apart = torch.cdist(colours.flatten(2).mT, border, **exact).amin(2).view(-1, rows, columns)
    middle = torch.exp(-0.5 * (across(rows)[:, None] ** 2 + across(columns)[None] ** 2))
    return scaled(apart) * (alike + uniform * (1 - alike)) * middle


@torch.no_grad()
def outputs(net, pixels, metadata):
    normalized, std = metadata["normalized"] == "true", json.loads(metadata["preprocess"])["std"]
    x = net.maxpool(net.relu(net.bn1(net.conv1(pixels))))
    values = {}
    for stage in (1, 2, 3, 4):
        x = getattr(net, f"layer{stage}")(x)
        values[f"res{stage + 1}"] = x
    values["saliency_sum"] = x.sum(1)
    making = json.loads(metadata.get("saliency", '{"rule": "sum", "stage": 5}'))
    if hasattr(net, "aligns"):
        maps = F.normalize(net.fc(x.flatten(2)), dim=1).softmax(2)
        values["alignment"] = maps.mean(1).view(x.shape[0], *x.shape[2:])
    values["saliency"] = values["alignment"] if making["rule"] == "alignment" else saliency(making["rule"], values[f"res{making['stage']}"], pixels, std)
    pooled = x.mean((2, 3))
    scale = (lambda v: F.normalize(v, dim=1)) if normalized else (lambda v: v)
    values["embedding"], values["projection"] = scale(pooled), scale(net.fc(pooled))
    return {name: value.numpy() for name, value in values.items()}


def golden(net, metadata, contract):
    """Cosine between the golden embedding and torchvision's."""
    if "golden_image" not in metadata:
        return None
    picture = Image.open(io.BytesIO(base64.b64decode(metadata["golden_image"])))
    assert picture.width > picture.height > contract["crop"], picture
    prepare = T.Compose(
        [T.Resize(contract["resize"]), T.CenterCrop(contract["crop"]), T.ToTensor(), T.Normalize(contract["mean"], contract["std"])]
    )
    expected = outputs(net, prepare(picture)[None], {**metadata, "normalized": "true"})
    stored = {k: np.frombuffer(base64.b64decode(metadata[f"golden_{k}"]), "<f4") for k in ("embedding", "saliency") if f"golden_{k}" in metadata}
    cosines = []
    for name, value in stored.items():
        want = expected[name].ravel()
        assert value.shape == want.shape, (name, value.shape, want.shape)
        cosines.append(float(value @ want / np.linalg.norm(value) / np.linalg.norm(want)))
    return min(cosines)


def compare(net, side, path):
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    contract = json.loads(metadata["preprocess"])
    images = np.random.default_rng(0).integers(0, 256, (5, side, side + 32 * ("dynamic" in path), 3), np.uint8)
    mean, std = (torch.tensor(contract[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
    expected = outputs(net, pixels, metadata)
    name = session.get_inputs()[0].name
    given = images if name == "images" else pixels.numpy()
    names = [output.name for output in session.get_outputs()]
    result = {"outputs": names, "cosine": 1.0, "error": 0.0, "golden": golden(net, metadata, contract)}
    for output, value in zip(names, session.run(None, {name: given})):
        want = expected[output]
        assert value.shape == want.shape, (output, value.shape, want.shape)
        error = np.abs(value - want).max() / (1 if want.ndim == 2 else np.abs(want).max())
        result["error"] = max(result["error"], float(error))
        if want.ndim == 2:
            cosines = (value * want).sum(1) / np.linalg.norm(value, axis=1) / np.linalg.norm(want, axis=1)
            result["cosine"] = min(result["cosine"], float(cosines.min()))
    return result


def load(net, path):
    state = load_file(path) if path.endswith(".safetensors") else torch.load(path, weights_only=True, mmap=True)
    if "state_dict" in state:
        assert state["arch"] == "resnet18" and state["epoch"] == 3, (state["arch"], state["epoch"])
        state = {k.removeprefix(PREFIX): v for k, v in state["state_dict"].items()}
    bare = torchvision.models.resnet18()
    if "fc.weight" not in state:
        bare.fc = torch.nn.Identity()
    bare.load_state_dict(state, strict=True)
    own = net.state_dict()
    return all(torch.equal(v, own[k]) for k, v in state.items() if not k.startswith("fc."))


what, checkpoint, *rest = sys.argv[1:]
if what == "make":
    make(checkpoint, *rest)
    print("{}")
elif what == "make-lewel":
    make_lewel(checkpoint)
    print("{}")
elif what == "values":
    values(checkpoint)
    print("{}")
elif what == "compare":
    net = reference(checkpoint)
    print(json.dumps([compare(net, int(rest[0]), path) for path in rest[1:]]))
else:
    net = reference(checkpoint)
    print(json.dumps([load(net, path) for path in rest]))
