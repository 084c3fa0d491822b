"""The peer of the benchmark `export`: torch.onnx.export of a torchvision ResNet-50 encoder.

Arguments: where to write the checkpoint (safetensors, torchvision names), where to write the ONNX file."""

import json
import sys
import time

began = time.perf_counter()
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file

imported = time.perf_counter() - began
checkpoint, onnx = sys.argv[1:3]
torch.manual_seed(0)
model = torchvision.models.resnet50()
save_file({k: v for k, v in model.state_dict().items() if not k.startswith("fc.")}, checkpoint)


class Encoder(torch.nn.Module):
    """Outputs of the same names and meaning as occlude-export's."""

    def __init__(self, net):
        super().__init__()
        net.fc = torch.nn.Identity()
        self.body = torch.nn.Sequential(*list(net.children())[:-2])

    def forward(self, pixel_values):
        features = self.body(pixel_values)
        return F.normalize(features.mean(dim=(2, 3)), dim=1), features.sum(dim=1)


def export():
    began = time.perf_counter()
    net = torchvision.models.resnet50()
    net.load_state_dict(load_file(checkpoint), strict=False)
    dynamic = {name: {0: "batch"} for name in ("pixel_values", "embedding", "saliency")}
    torch.onnx.export(
        Encoder(net).eval(), torch.zeros(1, 3, 224, 224), onnx, opset_version=17, dynamo=False,
        input_names=["pixel_values"], output_names=["embedding", "saliency"], dynamic_axes=dynamic,
    )
    return time.perf_counter() - began


times = sorted(export() for _ in range(5))
print(json.dumps({"export": times[2], "process": imported + times[2]}))
