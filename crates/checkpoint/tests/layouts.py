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

import torch
import torchvision


def body(arch="resnet18"):
    """torchvision's state dict without the classifier."""
    with torch.device("meta"):
        state = torchvision.models.__dict__[arch]().state_dict()
    names = [name for name in state if not name.startswith("fc.")]
    return {name: torch.full((), i, dtype=state[name].dtype).expand(state[name].shape) for i, name in enumerate(names)}


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
    yield "fpn", {"model": {**below("backbone.bottom_up.", detectron2(r18)), "backbone.fpn_lateral2.weight": torch.zeros(1)}, "iteration": 9}

    # What must not be taken for something else.
    yield "ema", {"state_dict": r18, "state_dict_ema": other, "arch": "resnet18", **ddp}
    yield "deep_stem", {**{n: t for n, t in r18.items() if n != "conv1.weight"}, "conv1.0.weight": torch.zeros(32, 3, 3, 3), "conv1.3.weight": torch.zeros(1)}
    yield "resnet152", body("resnet152")
    # The last stage would expand one number beyond what is accepted.
    yield "wide", {n: t for n, t in body("wide_resnet50_2").items() if not n.startswith("layer4")}
    yield "resnext", body("resnext50_32x4d")
    yield "attention", {**r18, "layer1.0.se.fc1.weight": torch.zeros(1)}
    yield "small_stem", {**r18, "conv1.weight": torch.zeros(64, 3, 3, 3)}
    yield "transformer", {"cls_token": torch.zeros(1), "blocks.0.attn.qkv.weight": torch.zeros(1)}


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
    (folder / "c4.pkl").write_bytes(pickle.dumps(c4()))


main()
