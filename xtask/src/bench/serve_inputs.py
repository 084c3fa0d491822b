"""Writes what both sides of the benchmark `serve` read: a ResNet-50 checkpoint and 32 JPEG files of 400x600.

Arguments: checkpoint (safetensors), folder of images."""

import json
import os
import sys

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

checkpoint, folder = sys.argv[1:3]
torch.manual_seed(0)
state = torchvision.models.resnet50().state_dict()
save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, checkpoint)

os.makedirs(folder)
random = np.random.default_rng(0)
for i in range(32):
    coarse = random.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((600, 400), Image.BICUBIC).save(os.path.join(folder, f"{i:02}.jpg"), quality=88)
print(json.dumps({"images": 32}))
