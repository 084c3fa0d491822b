"""What `occlude-detectron pseudo-boxes` has to find, by ONNX Runtime, Pillow and numpy alone.

`MODEL FOLDER JSON`: prints, for every picture in the file, the objects that are expected of it and those that the file has,
as `[x, y, width, height, area, score]`, largest first, and whether every mask is what it should be, pixel by pixel, also as
pycocotools reads it."""

import contextlib
import io
import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image
from pycocotools.coco import COCO


def decoded(segmentation):
    """COCO's compressed runs, from the description of the format."""
    height, width = segmentation["size"]
    runs, text, at = [], segmentation["counts"].encode(), 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            digit = text[at] - 48
            at += 1
            value |= (digit & 31) << shift
            shift += 5
            more = bool(digit & 32)
            if not more and digit & 16:
                value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    assert flat.size == height * width
    return flat.reshape(width, height).T


def parts(mask):
    """The connected parts of a grid, by spreading labels until nothing changes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        near = [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        spread = np.where(mask, np.max(near, axis=0), 0)
        if (spread == labels).all():
            return [labels == label for label in np.unique(labels) if label]
        labels = spread


def without_specks(mask):
    """Parts and holes of less than 1/512 of the cells change sides; the largest part stays."""
    least, found = mask.size // 512, parts(mask)
    largest = max((part.sum() for part in found), default=0)
    kept = np.zeros_like(mask)
    for part in found:
        kept |= part & (part.sum() >= min(least, largest))
    inner = lambda part: not (part[[0, -1]].any() or part[:, [0, -1]].any())
    for hole in parts(~kept):
        kept |= hole & bool(hole.sum() < least and inner(hole))
    return kept


def expected(session, contract, deviations, path):
    image = Image.open(path).convert("RGB")
    side = contract["crop"]
    kind = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}[contract["interpolation"]]
    pixels = np.asarray(image.resize((side, side), kind), np.float32) / 255
    planes = ((pixels - np.float32(contract["mean"])) / np.float32(contract["std"])).transpose(2, 0, 1)
    (grid,) = session.run(["saliency"], {"pixel_values": planes[None].astype(np.float32)})[0]
    grid = grid.astype(np.float64)
    scaled = (grid - grid.min()) / (grid.max() - grid.min())
    rows = ((np.arange(image.height) + 0.5) * grid.shape[0] / image.height).astype(int)
    columns = ((np.arange(image.width) + 0.5) * grid.shape[1] / image.width).astype(int)
    found = []
    for part in parts(without_specks(grid >= grid.mean() + deviations * grid.std())):
        mask = part[rows][:, columns]
        if mask.sum() >= 0.01 * mask.size:
            y, x = np.nonzero(mask)
            box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1, mask.sum()]
            found.append(([int(v) for v in box] + [float(scaled[part].mean())], mask))
    return found


def main(model, folder, file):
    session = onnxruntime.InferenceSession(model)
    metadata = session.get_modelmeta().custom_metadata_map
    contract = json.loads(metadata["preprocess"])
    deviations = json.loads(metadata.get("saliency", '{"deviations": -0.6}'))["deviations"]
    data = json.loads(pathlib.Path(file).read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(file)
    order = lambda objects: sorted(objects, key=lambda o: [-o[0][4], *o[0][:4]])
    result = []
    for image in data["images"]:
        path = pathlib.Path(folder) / image["file_name"]
        want = order(expected(session, contract, deviations, path))
        own = coco.loadAnns(coco.getAnnIds(imgIds=image["id"], catIds=coco.getCatIds(catNms=["object"])))
        read = all((coco.annToMask(a) == decoded(a["segmentation"])).all() for a in own)
        got = order([([*a["bbox"], a["area"], a["score"]], decoded(a["segmentation"])) for a in own])
        same = len(want) == len(got) and all((a[1] == b[1]).all() for a, b in zip(want, got))
        result.append({"name": image["file_name"], "size": [image["width"], image["height"]] == list(Image.open(path).size),
            "expected": [w[0] for w in want], "got": [g[0] for g in got], "masks": bool(same and read)})
    print(json.dumps(result))


main(*sys.argv[1:])
