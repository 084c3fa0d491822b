"""Writes the names and shapes of transformers' ResNets into this folder, for `transformers.rs`. The random weights are
not kept. Made with transformers 5.24.0."""

import pathlib

from transformers import ResNetConfig, ResNetModel

KINDS = {
    "resnet18": ("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
    "resnet50": ("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
}

for name, (layer_type, depths, hidden_sizes) in KINDS.items():
    model = ResNetModel(ResNetConfig(layer_type=layer_type, depths=depths, hidden_sizes=hidden_sizes))
    lines = [f"{key} {'x'.join(map(str, value.shape))}".rstrip() for key, value in model.state_dict().items()]
    pathlib.Path(__file__).with_name(f"{name}.txt").write_text("\n".join(lines) + "\n")
