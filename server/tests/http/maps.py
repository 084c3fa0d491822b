"""What the server should say about a picture, by Pillow, numpy and ONNX Runtime's own package: for every window, map,
mirror and refinement, from the definitions and not from the server's code.

Usage: maps.py MODEL PICTURE; prints {"window=..&map=..&mirror=..&refine=..": {...}}.
"""

import itertools
import json
import math
import sys

import numpy as np
import onnxruntime
from PIL import Image

REDUCED = 4
RADIUS = 1.0  # cells
KERNELS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
GUIDE = 256

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
contract = json.loads(metadata["preprocess"])
rule = json.loads(metadata.get("saliency", '{"rule":"sum","stage":5,"deviations":-0.6}'))
picture = Image.open(sys.argv[2]).convert("RGB")


def prepared(window):
    """The model's pixels, and left, top, width, height of what they show."""
    (width, height), side, kernel = picture.size, contract["crop"], KERNELS[contract["interpolation"]]
    if window == "whole":
        w, h = min(width, 4 * height), min(height, 4 * width)
        left, top = (width - w) // 2, (height - h) // 2
        part = picture.crop((left, top, left + w, top + h))
        return np.asarray(part.resize((side, side), kernel)), (left, top, w, h)
    sizes = [contract["resize"] * s // min(picture.size) for s in picture.size]
    starts = [round((s - side) / 2) for s in sizes]
    resized = np.asarray(picture.resize(tuple(sizes), kernel))
    pixels = resized[starts[1] : starts[1] + side, starts[0] : starts[0] + side]
    across, down = width / sizes[0], height / sizes[1]
    return pixels, (starts[0] * across, starts[1] * down, side * across, side * down)


def run(pixels, output):
    if session.get_inputs()[0].name == "images":
        feed = {"images": pixels[None]}
    else:
        mean, std = (np.array(contract[key], np.float32) for key in ("mean", "std"))
        feed = {"pixel_values": np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)[None])}
    embedding, saliency = session.run(["embedding", output], feed)
    return embedding[0], saliency[0].astype(np.float64)


def box(values, radius):
    """Means over windows that are cut at the edges; values (h, w, c)."""
    for axis in (0, 1):
        n = values.shape[axis]
        sums = np.concatenate([np.zeros_like(values.take([0], axis)), values.cumsum(axis)], axis)
        high, low = np.minimum(np.arange(n) + radius + 1, n), np.maximum(np.arange(n) - radius, 0)
        count = (high - low).reshape([-1 if a == axis else 1 for a in range(3)])
        values = (sums.take(high, axis) - sums.take(low, axis)) / count
    return values


def blocks(values, every):
    """Means over square blocks, of which the last ones may be smaller; values (h, w, c)."""
    for axis in (0, 1):
        n = values.shape[axis]
        count = np.diff(np.append(np.arange(0, n, every), n)).reshape([-1 if a == axis else 1 for a in range(3)])
        values = np.add.reduceat(values, np.arange(0, n, every), axis) / count
    return values


def interpolated(values, shape, every):
    """Values of blocks (h, w, c) at the pixels' middles, linear between the blocks' own."""
    for axis in (0, 1):
        n = shape[axis]
        edges = np.append(np.arange(0, n, every), n)
        at = lambda line: np.interp(np.arange(n) + 0.5, (edges[1:] + edges[:-1]) / 2, line)
        values = np.apply_along_axis(at, axis, values)
    return values


def guided(coarse, colours, radius, epsilon=1e-4):
    """He, Sun, Tang: Guided Image Filtering, equations 14 to 16; a and b found on blocks, as in He, Sun: Fast Guided Filter."""
    every = max(radius // REDUCED, 1)
    radius = (radius + every // 2) // every
    i, p = blocks(colours, every), blocks(coarse[..., None], every)
    h, w = i.shape[:2]
    mean_i, mean_p = box(i, radius), box(p, radius)
    outer = (i[..., :, None] * i[..., None, :]).reshape(h, w, 9)
    sigma = box(outer, radius).reshape(h, w, 3, 3) - mean_i[..., :, None] * mean_i[..., None, :]
    shared = box(i * p, radius) - mean_i * mean_p
    a = np.linalg.solve(sigma + epsilon * np.eye(3), shared[..., None])[..., 0]
    b = mean_p - (a * mean_i).sum(-1, keepdims=True)
    a, b = (interpolated(box(x, radius), coarse.shape, every) for x in (a, b))
    out = (a * colours).sum(-1) + b[..., 0]
    return out.clip(coarse.min(), coarse.max())


def refined(grid, place):
    """The grid, in 0..1, at the size of the guide."""
    left, top, width, height = place
    scale = min(GUIDE / max(width, height), 1)
    size = [max(math.floor(s * scale + 0.5), 1) for s in (width, height)]
    low = (math.floor(left), math.floor(top))
    part = picture.crop((*low, math.ceil(left + width), math.ceil(top + height)))
    inside = (left - low[0], top - low[1], left - low[0] + width, top - low[1] + height)
    colours = np.asarray(part.resize(size, Image.BILINEAR, box=inside)) / 255.0
    grid = blocks(grid[..., None].astype(np.float64), max(max(grid.shape) // 28, 1))[..., 0]
    span = np.ptp(grid)
    unit = (grid - grid.min()) / span
    positions = [
        np.clip((np.arange(n) + 0.5) * cells / n - 0.5, 0, cells - 1) for n, cells in zip(size[::-1], grid.shape)
    ]
    rows = np.stack([np.interp(positions[0], np.arange(grid.shape[0]), column) for column in unit.T], 1)
    coarse = np.stack([np.interp(positions[1], np.arange(grid.shape[1]), row) for row in rows])
    cell = max(size[0] / grid.shape[1], size[1] / grid.shape[0])
    return guided(coarse, colours, max(math.floor(cell * RADIUS + 0.5), 1)) * span + grid.min()


def foreground(values, deviations):
    return values >= values.mean() + deviations * values.std()


def parts(mask):
    """The 4-connected parts, each a list of (row, column), in the order of their first cells."""
    seen, found = ~mask, []
    for start in zip(*np.nonzero(mask)):
        if seen[start]:
            continue
        seen[start], part = True, [start]
        for y, x in part:
            for cell in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= cell[0] < mask.shape[0] and 0 <= cell[1] < mask.shape[1] and not seen[cell]:
                    seen[cell] = True
                    part.append(cell)
        found.append(part)
    return found


def without_specks(mask):
    """Parts and holes of less than 1/512 of the cells change sides; the largest part stays."""
    least, kept = mask.size // 512, np.zeros_like(mask)
    found = parts(mask)
    for part in found:
        if len(part) >= least or part is max(found, key=len):
            kept[tuple(zip(*part))] = True
    for hole in parts(~kept):
        rows, columns = zip(*hole)
        inside = min(rows) > 0 and min(columns) > 0 and max(rows) < mask.shape[0] - 1 and max(columns) < mask.shape[1] - 1
        if len(hole) < least and inside:
            kept[rows, columns] = True
    return kept


def answer(window, source, mirror, refine):
    pixels, place = prepared(window)
    extra = source == "sum" and rule["rule"] != "sum"
    output, deviations = ("saliency_sum", -0.6) if extra else ("saliency", rule["deviations"])
    embedding, grid = run(pixels, output)
    said = {"embedding": embedding.tolist(), "deviations": deviations, "crop": place}
    if mirror:
        other = run(np.ascontiguousarray(pixels[:, ::-1]), output)[1][:, ::-1]
        a, b = foreground(grid, deviations), foreground(other, deviations)
        said["confidence"] = float((a & b).sum() / (a | b).sum())
        grid = (grid + other) / 2
    said |= {"grid": grid.ravel().tolist(), "size": grid.shape}
    shown = refined(grid, place) if refine else grid
    said["threshold"] = float(shown.mean() + deviations * shown.std())
    # In the picture's pixels: a pixel takes the cell that its centre lies in.
    mask = foreground(shown, deviations)
    mask = without_specks(mask)
    axis = lambda side, start, length, cells: np.floor((np.arange(side) + 0.5 - start) / length * cells).astype(int)
    x = axis(picture.width, place[0], place[2], mask.shape[1])
    y = axis(picture.height, place[1], place[3], mask.shape[0])
    inside = ((y >= 0) & (y < mask.shape[0]))[:, None] & ((x >= 0) & (x < mask.shape[1]))[None]
    large = mask[y.clip(0, mask.shape[0] - 1)][:, x.clip(0, mask.shape[1] - 1)] & inside
    said["mask"] = "".join("#" if v else "." for v in large.ravel())
    return said


sums = ["default"] if rule["rule"] != "sum" and "saliency_sum" not in [o.name for o in session.get_outputs()] else ["default", "sum"]
flags = {"false": False, "true": True}
print(
    json.dumps(
        {
            f"window={w}&map={m}&mirror={i}&refine={r}": answer(w, m, flags[i], flags[r])
            for w, m, i, r in itertools.product(["crop", "whole"], sums, flags, flags)
        }
    )
)
