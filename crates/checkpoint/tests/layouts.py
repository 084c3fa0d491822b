"""Writes checkpoints with the keys of published ones into the folder given: for `layouts.rs`.

Every parameter repeats one number, its position in torchvision's state dict, so that the files are
small and a misread name shows.
"""

import argparse
import collections
import pathlib
import pickle
import re
import sys
import types

import torch
import torchvision


def body(arch="resnet18", dtype=None):
    """torchvision's state dict without the classifier. Bytes hold the positions modulo 251."""
    with torch.device("meta"):
        state = torchvision.models.__dict__[arch]().state_dict()
    names = [name for name in state if not name.startswith("fc.")]
    number = lambda i, name: torch.full((), i % 251 if dtype else i, dtype=dtype or state[name].dtype)
    return {name: number(i, name).expand(state[name].shape) for i, name in enumerate(names)}


class Config:
    """What OmegaConf does: every node knows its parent, and the parent its nodes."""

    def __init__(self, parent=None, depth=3):
        self._parent = parent
        self._content = {str(i): Config(self, depth - 1) for i in range(3)} if depth else {"lr": 0.1}


class Trainer:
    """What holds everything: the model, whose hooks hold it, and an optimiser of the same tensors."""

    def __init__(self, state):
        self.model = types.SimpleNamespace(trainer=self, weights=state, callbacks=[self])
        self.history = None
        for _ in range(90):
            self.history = {"before": self.history, "weights": state}


def renamed(state, *rules):
    """Names with wrappers put in by (pattern, replacement)."""
    for pattern, replacement in rules:
        state = {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}
    return state


def transformers(state):
    """The names of `transformers.ResNetModel`."""

    def rename(name):
        name = re.sub(r"^conv1", "embedder.embedder.convolution", name)
        name = re.sub(r"^bn1", "embedder.embedder.normalization", name)
        name = re.sub(r"^layer(\d)\.(\d+)", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}", name)
        name = re.sub(r"downsample\.0", "shortcut.convolution", name)
        name = re.sub(r"downsample\.1", "shortcut.normalization", name)
        name = re.sub(r"\.conv(\d)", lambda m: f".layer.{int(m[1]) - 1}.convolution", name)
        return re.sub(r"\.bn(\d)", lambda m: f".layer.{int(m[1]) - 1}.normalization", name)

    return {rename(name): tensor for name, tensor in state.items()}


def without_values(state, *names):
    """Some tensors in a type that is not read."""
    return {n: t.to(torch.float8_e4m3fn) if n in names else t for n, t in state.items()}


class OfDevice:
    """What `torch.save` makes of a tensor of XLA: a copy for the CPU, and the name of the device that it goes back to."""

    def __init__(self, rebuild, tensor):
        self.reduced = rebuild, (tensor, torch.float32, "xla:0", False)

    def __reduce__(self):
        return self.reduced


def of_device(state, *names):
    """Some tensors of XLA, as today's versions save them and as earlier ones, by numpy, did."""
    today, earlier = torch._utils._rebuild_device_tensor_from_cpu_tensor, torch._utils._rebuild_device_tensor_from_numpy
    made = {n: OfDevice(today, state[n].clone()) if i else OfDevice(earlier, state[n].numpy()) for i, n in enumerate(names)}
    return {**state, **made}


def below(prefix, state, *, shared=None):
    return {prefix + name: (shared or state)[name] for name in state}


def sequential(state):
    numbers = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(i + 3) for i in range(1, 5)}}
    return {re.sub(r"^\w+", lambda m: numbers[m[0]], name): t for name, t in state.items()}


def detectron2(state):
    def rename(name):
        name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        name = re.sub(r"downsample\.0", "shortcut", name)
        name = re.sub(r"downsample\.1", "shortcut.norm", name)
        name = re.sub(r"bn(\d)", r"conv\1.norm", name)
        return name if name.startswith("res") else f"stem.{name}"

    return {rename(name): t for name, t in state.items()}


def head(prefix):
    return {f"{prefix}.0.weight": torch.zeros(1), f"{prefix}.1.running_mean": torch.zeros(1)}


def files():
    r18, other = body(), body()
    sgd = {"state": {0: {"momentum_buffer": torch.zeros(1)}}, "param_groups": [{"lr": 0.03, "params": [0]}]}
    ddp = {"optimizer": sgd, "epoch": 200}
    yield "bare", collections.OrderedDict(r18)
    yield "classifier", {**r18, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    yield "reference", {"model": r18, "lr_scheduler": {"last_epoch": 1}, "args": argparse.Namespace(lr=0.1), **ddp}
    yield "nested", {"model": {"state_dict": r18}, **ddp}
    queue = {"module.queue": torch.zeros(2, 2), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    q, k = "module.encoder_q.", "module.encoder_k."
    moco = {**below(q, r18), **head(q + "fc"), **below(k, other), **head(k + "fc"), **queue}
    yield "moco", {"arch": "resnet18", "state_dict": moco, **ddp}
    yield "mixmask", {"arch": "resnet18", "state_dict": moco, "scaler": {"scale": 65536.0}, **ddp}
    v3 = {**below("module.base_encoder.", r18), **below("module.momentum_encoder.", other), **head("module.predictor")}
    yield "moco_v3", {"arch": "resnet18", "state_dict": v3, **ddp}
    lewel = {**below("module.online_net.backbone.", r18), **below("module.target_net.backbone.", other), **head("module.online_net.neck")}
    yield "lewel", {"state_dict": lewel, **ddp}
    student = {**below("module.backbone.", other), **head("module.head.mlp")}
    teacher = {**below("backbone.", r18), **head("head.mlp")}
    yield "dino", {"student": student, "teacher": teacher, "dino_loss": {"center": torch.zeros(1, 4)}, **ddp}
    yield "simclr", {"arch": "resnet18", "state_dict": {**below("backbone.", r18), **head("backbone.fc")}, **ddp}
    yield "simsiam", {"state_dict": {**below("module.encoder.", r18), **head("module.predictor")}, **ddp}
    yield "swav", {**below("module.", r18), **head("module.projection_head"), "module.prototypes.weight": torch.zeros(3, 2)}
    yield "barlow", {"model": {**below("module.backbone.", r18), **head("module.projector")}, **ddp}
    lightning = {"pytorch-lightning_version": "1.9", "global_step": 9, "optimizer_states": [sgd], "hyper_parameters": {"lr": 1}}
    bolts = {**below("online_network.encoder.", r18), **below("target_network.encoder.", other), **head("online_network.projector")}
    yield "bolts", {"state_dict": bolts, **lightning}
    yield "solo", {"state_dict": {**below("backbone.", r18), **below("momentum_backbone.", other), **head("projector")}, **lightning}
    numbered = sequential(r18)
    yield "lightly", {"state_dict": {**below("backbone.", numbered), **head("projection_head.layers")}, **lightning}
    byol = {**below("encoder.", numbered), **head("projetion.net")}
    yield "byol", {"online_network_state_dict": byol, "target_network_state_dict": byol, "optimizer_state_dict": sgd}
    aliases = {**below("backbone.", r18), **below("encoder_q.0.", r18), **below("encoder_k.0.", other)}
    yield "openselfsup", {"meta": {"epoch": 3}, "state_dict": aliases, "optimizer": sgd}
    yield "byol_pytorch", {**below("net.", r18), **below("online_encoder.net.", r18), **below("target_encoder.net.", other)}
    yield "compiled", below("_orig_mod.", r18)
    # Names of wrappers at every place where tools put them.
    wrapped = renamed(r18, (r"^layer(\d)\.", r"layer\1._orig_mod."), (r"^(layer\d\.\w+\.1)\.", r"\1._fsdp_wrapped_module."))
    yield "wrapped", {"state_dict": below("module.encoder_q.", wrapped)}
    yield "engine", {"module": below("_forward_module.model.model.", renamed(r18, (r"\.conv", ".module.conv")))}
    yield "transformers", below("resnet.", transformers(r18))
    # What Lightning, OmegaConf and whole trainers keep beside the weights.
    config = Config()
    cycle = {"lr": 0.1}
    cycle["self"] = cycle
    yield "cycles", {"hyper_parameters": cycle, "cfg": config, "state_dict": below("backbone.", r18)}
    yield "hyper_module", {"hyper_parameters": {"backbone": other, "again": cycle}, "state_dict": below("backbone.", r18)}
    yield "trainer", {"trainer": Trainer(r18), "args": argparse.Namespace(config=config), "model": r18}
    yield "no_wrapper", {"trainer": Trainer(other), "cfg": {"net": other}, **r18}
    yield "fpn", {"model": {**below("backbone.bottom_up.", detectron2(r18)), "backbone.fpn_lateral2.weight": torch.zeros(1)}, "iteration": 9}

    # What must not be taken for something else.
    yield "ema", {"state_dict": r18, "state_dict_ema": other, "arch": "resnet18", **ddp}
    yield "deep_stem", {**{n: t for n, t in r18.items() if n != "conv1.weight"}, "conv1.0.weight": torch.zeros(32, 3, 3, 3), "conv1.3.weight": torch.zeros(1)}
    deeper = body("resnet152")
    yield "deeper", {**deeper, **{f"layer3.36.{n[10:]}": t for n, t in deeper.items() if n.startswith("layer3.35.")}}
    with torch.device("meta"):
        narrow = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], width_per_group=32)
    yield "narrow", {n: torch.zeros(()).expand(t.shape) for n, t in narrow.state_dict().items() if not n.startswith("fc.")}
    yield "blurred", {**r18, "layer2.0.conv1.filt": torch.zeros(64, 1, 3, 3)}
    yield "pooled", {n.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): t for n, t in r18.items()}
    yield "clip", below("visual.", {**r18, "conv1.weight": torch.zeros(32, 3, 3, 3), "conv2.weight": torch.zeros(1), "attnpool.positional_embedding": torch.zeros(1)})
    yield "folded", {n: t for n, t in r18.items() if "running" not in n and "bn" not in n} | {"conv1.bias": torch.zeros(64)}
    yield "groups", {n: t for n, t in r18.items() if "running" not in n and "num_batches" not in n}
    yield "five_channels", {**r18, "conv1.weight": torch.zeros(64, 5, 7, 7)}
    numbers = {"conv1": "0", "bn1": "1", **{f"layer{i}": str(i + 2) for i in range(1, 5)}}
    yield "no_pool", {re.sub(r"^\w+", lambda m: "f." + numbers[m[0]], n): t for n, t in r18.items()}
    yield "eighth", without_values(r18, "layer1.0.conv1.weight", "bn1.bias")
    yield "eighth_stem", without_values(r18, "conv1.weight")
    with torch.device("meta"):
        empty = {n: torch.empty(t.shape) for n, t in r18.items()}
    yield "meta", {"state_dict": empty}
    yield "xla", {"state_dict": of_device(r18, "bn1.bias", "layer1.0.conv1.weight")}
    yield "attention", {**r18, "layer1.0.se.fc1.weight": torch.zeros(1)}
    small = {**r18, "conv1.weight": torch.zeros(64, 3, 3, 3)}
    yield "small_stem", small
    yield "small_wide", {**small, "layer1.0.conv1.weight": torch.zeros(64, 32, 3, 3)}
    yield "small_unpooled", {re.sub(r"^\w+", lambda m: "f." + numbers[m[0]], n): t for n, t in small.items()}
    yield "transformer", {"cls_token": torch.zeros(1), "blocks.0.attn.qkv.weight": torch.zeros(1)}


ARCHITECTURES = ["resnet152", "wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"]


def plain():
    """What `pickle.dump` makes of tensors, parameters and arrays; small enough for every protocol."""
    for protocol in range(6):
        state = {n: torch.arange(12.0).reshape(3, 4) + i for i, n in enumerate(["a", "b.c"])}
        state["transposed"] = state["a"].t()
        state["half"] = state["a"].half()
        state["parameter"] = torch.nn.Parameter(state["a"][1:])
        state["array"] = state["a"].numpy() + 100
        state["count"] = torch.tensor(7)
        state["none"] = torch.zeros(0, 3)
        yield protocol, {"state_dict": state, "epoch": 3}


def c4():
    state = {
        ("roi_heads." if name.startswith("res5") else "backbone.") + name: tensor.numpy()
        for name, tensor in detectron2(body("resnet50")).items()
        if not name.endswith("num_batches_tracked")
    }
    return {"model": {**state, "roi_heads.res5.norm.weight": torch.zeros(1).numpy()}, "__author__": "layouts.py"}


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, checkpoint in files():
        torch.save(checkpoint, folder / f"{name}.pth")
        torch.save(checkpoint, folder / f"{name}.legacy.pth", _use_new_zipfile_serialization=False)
    for arch in ARCHITECTURES:
        # Bytes: single precision would expand one number beyond what is accepted.
        torch.save(body(arch, torch.uint8), folder / f"{arch}.pth")
    for protocol, checkpoint in plain():
        (folder / f"plain_p{protocol}.pkl").write_bytes(pickle.dumps(checkpoint, protocol=protocol))
    whole = {n: t.clone() for n, t in body().items()}
    (folder / "plain_resnet18.pkl").write_bytes(pickle.dumps({"state_dict": whole}))
    (folder / "plain_resnet18_p2.pkl").write_bytes(pickle.dumps({"state_dict": whole}, protocol=2))
    (folder / "c4.pkl").write_bytes(pickle.dumps(c4()))


main()
