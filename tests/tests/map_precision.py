"""Saliency maps of discs whose masks are known.

`draw FOLDER`: writes pictures of 64 px with a disc on textured ground into `FOLDER/pictures`, and where each disc is into
`FOLDER/masks`.
`auroc FOLDER MODEL...`: the mean area under the ROC curve of each model's map, in ONNX Runtime, over the pixels of a picture.
The maps are enlarged as half-pixel centres say."""

import json
import os
import sys

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from PIL import Image

SIDE, PICTURES = 64, 24


def draw(folder):
    random = np.random.default_rng(11)
    for part in ("pictures", "masks"):
        os.makedirs(f"{folder}/{part}")
    y, x = np.mgrid[:SIDE, :SIDE]
    for i in range(PICTURES):
        radius = random.integers(9, 20)
        middle = random.integers(radius, SIDE - radius, 2)
        inside = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 <= radius**2
        ground, disc = random.integers(30, 226, (2, 3))
        colours = np.where(inside[..., None], disc, ground) + random.normal(0, 25, (SIDE, SIDE, 3))
        Image.fromarray(colours.clip(0, 255).astype(np.uint8)).save(f"{folder}/pictures/{i:02}.png")
        Image.fromarray(inside).save(f"{folder}/masks/{i:02}.png")


def auroc(values, inside):
    """By ranks, of which equal values share the mean (Mann and Whitney)."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (count.cumsum() - (count - 1) / 2)[place]
    n = inside.sum()
    return (ranks[inside].sum() - n * (n + 1) / 2) / (n * (inside.size - n))


def judge(folder, model):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    contract = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
    found = []
    for name in sorted(os.listdir(f"{folder}/pictures")):
        pixels = np.asarray(Image.open(f"{folder}/pictures/{name}"), np.float32) / 255
        pixels = (pixels - np.float32(contract["mean"])) / np.float32(contract["std"])
        (grid,) = session.run(["saliency"], {session.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None]})
        whole = F.interpolate(torch.from_numpy(grid.astype(np.float64))[None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        found.append(auroc(whole.numpy().ravel(), np.asarray(Image.open(f"{folder}/masks/{name}")).astype(bool).ravel()))
    return float(np.mean(found))


what, folder, *models = sys.argv[1:]
if what == "draw":
    draw(folder)
    print("{}")
else:
    print(json.dumps([judge(folder, model) for model in models]))
