"""Embeddings of images by torchvision with a checkpoint's weights and its preprocessing contract.

Arguments: checkpoint, images. Prints a JSON list of embeddings."""

import json
import sys

import torch
import torchvision
from PIL import Image, ImageOps
from safetensors import safe_open
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2

path, images = sys.argv[1], sys.argv[2:]
with safe_open(path, "pt") as file:
    metadata = file.metadata()
    state = {k.removeprefix("encoder_q."): file.get_tensor(k) for k in file.keys() if k.startswith("encoder_q.")}
contract = json.loads(metadata["occlude.preprocess"])
net = getattr(torchvision.models, metadata["occlude.arch"])()
net.fc = torch.nn.Identity()
net.load_state_dict(state)
net.eval()
how = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}[contract["interpolation"]]
steps = v2.Compose([
    v2.Resize(contract["resize"], interpolation=how, antialias=True),
    v2.CenterCrop(contract["crop"]),
])


def tensor(path):
    image = steps(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    pixels = v2.functional.to_dtype(v2.functional.to_image(image), torch.float32, scale=True)
    pixels = v2.functional.normalize(pixels, contract["mean"], contract["std"])
    high_pass = contract.get("high_pass")
    if high_pass:
        pixels = pixels - v2.functional.gaussian_blur(pixels, high_pass["kernel"], high_pass["sigma"])
    return pixels


with torch.inference_mode():
    print(json.dumps([net(tensor(image)[None])[0].tolist() for image in images]))
