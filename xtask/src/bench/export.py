"""The peers of the benchmark `export`, on a MoCo checkpoint of a ResNet-50.

`make CHECKPOINT`: writes the checkpoint. `onnx CHECKPOINT OUT`: torch.onnx.export. `detectron CHECKPOINT OUT`: the usual
conversion for Detectron2, torch.load and pickle.dump. `again CHECKPOINT OUT`: how long the export takes in a process that
has everything imported, the median of five."""

import json
import pickle
import re
import sys
import time

import torch

what, checkpoint, *out = sys.argv[1:]
PREFIX = "module.encoder_q."


def make():
    import torchvision

    torch.manual_seed(0)
    state = {PREFIX + k: v for k, v in torchvision.models.resnet50(num_classes=128).state_dict().items()}
    torch.save({"epoch": 200, "arch": "resnet50", "state_dict": state}, checkpoint)


def weights():
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    return {k.removeprefix(PREFIX): v for k, v in state.items() if not k.startswith(PREFIX + "fc.")}


def onnx():
    import torch.nn.functional as F
    import torchvision

    class Encoder(torch.nn.Module):
        """Outputs of the same names and meaning as occlude-export's."""

        def __init__(self, net):
            super().__init__()
            self.body = torch.nn.Sequential(*list(net.children())[:-2])

        def forward(self, pixel_values):
            features = self.body(pixel_values)
            return F.normalize(features.mean(dim=(2, 3)), dim=1), features.sum(dim=1)

    net = torchvision.models.resnet50()
    net.load_state_dict(weights(), strict=False)
    dynamic = {name: {0: "batch"} for name in ("pixel_values", "embedding", "saliency")}
    torch.onnx.export(
        Encoder(net).eval(), torch.zeros(1, 3, 224, 224), out[0], opset_version=17, dynamo=False,
        input_names=["pixel_values"], output_names=["embedding", "saliency"], dynamic_axes=dynamic,
    )


RENAMED = [
    (r"^(conv1\.|bn1\.)", r"stem.\1"), (r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}"), (r"bn(\d)", r"conv\1.norm"),
    (r"downsample\.0", "shortcut"), (r"downsample\.1", "shortcut.norm"),
]


def detectron():
    arrays = {}
    for name, value in weights().items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        arrays[name] = value.numpy()
    with open(out[0], "wb") as file:
        pickle.dump({"model": arrays, "__author__": "MOCO", "matching_heuristics": True}, file)


def again():
    times = []
    for _ in range(6):
        began = time.perf_counter()
        onnx()
        times.append(time.perf_counter() - began)
    print(json.dumps({"seconds": sorted(times[1:])[2]}))


{"make": make, "onnx": onnx, "detectron": detectron, "again": again}[what]()
if what == "make":
    print("{}")
