"""Writes score.txt: maps, masks, boxes and the figures of score.rs by numpy. Run: python score.py (needs numpy).

Four lines for each case: `height width` and four numbers for each box, the map (h, w), the mask (h, w), the figures
(maxF, IoU at twice the mean, at the mean, at the best threshold, MAE, AUROC or -1, CorLoc). The last line has those of all
cases together. Nothing here is shared with the Rust code: thresholds are applied one by one, pairs are compared each
with each, components grow by repeated dilation."""

from pathlib import Path

import numpy as np

LEVELS = np.arange(256) / 255


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def largest_part(mask):
    best, left = np.zeros_like(mask), mask.copy()
    while left.any():
        part = np.zeros_like(mask)
        part.flat[np.flatnonzero(left)[0]] = True
        while True:
            grown = part.copy()
            grown[1:] |= part[:-1]
            grown[:-1] |= part[1:]
            grown[:, 1:] |= part[:, :-1]
            grown[:, :-1] |= part[:, 1:]
            grown &= mask
            if (grown == part).all():
                break
            part = grown
        left &= ~part
        if part.sum() > best.sum():
            best = part
    return best


def box_iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def curve(map_, truth):
    above = map_[None] * 255 >= np.arange(256)[:, None, None]
    hits = (above & truth).sum((1, 2))
    return hits / np.maximum(above.sum((1, 2)), 1), hits / truth.sum(), above


def best_f(precision, recall):
    return (1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-300)).max()


def figures(map_, truth, boxes):
    precision, recall, above = curve(map_, truth)
    mean = map_.mean()
    inside, outside = map_[truth], map_[~truth]
    pairs = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    ys, xs = np.nonzero(largest_part(map_ >= mean))
    ours = (xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
    return [
        best_f(precision, recall),
        iou(map_ >= min(2 * mean, 1), truth),
        iou(map_ >= mean, truth),
        max(iou(a, truth) for a in above),
        np.abs(map_ - truth).mean(),
        pairs.mean() if outside.size else -1,
        float(any(box_iou(ours, b) >= 0.5 for b in boxes)),
    ]


random = np.random.default_rng(5)
lines, all_figures, curves = [], [], []
for case, (height, width) in enumerate([(1, 2), (5, 4), (9, 13), (12, 8), (7, 7), (16, 11), (3, 20), (10, 10), (6, 6)]):
    y, x = np.mgrid[:height, :width]
    truth = ((y - height * random.uniform(0.3, 0.7)) / height) ** 2 + ((x - width / 2) / width) ** 2 < 0.08
    truth.flat[random.integers(truth.size)] ^= case % 3 == 0
    truth.flat[0] |= not truth.any()
    map_ = 0.5 * truth * random.uniform(0.2, 1) + random.random((height, width)) * random.uniform(0.3, 0.9)
    map_ = (map_ - map_.min()) / (map_.max() - map_.min())
    if case in (2, 5):
        map_ = np.round(map_ * 6) / 6  # ties
    if case == 7:
        map_ = map_ * 0.4 + 0.1  # not normalised
    if case == 8:
        truth[:] = True
    map_ = map_.astype(np.float32).astype(np.float64)
    boxes = [(width * 0.25, height * 0.2, width * 0.55, height * 0.6)]
    if case % 2:
        ys, xs = np.nonzero(truth)
        boxes.append((xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1))
    found = figures(map_, truth, boxes)
    all_figures.append(found)
    curves.append(curve(map_, truth)[:2])
    lines.append(" ".join(f"{float(v):g}" for v in (height, width, *np.ravel(boxes))))
    boxes_written = [float(v) for v in lines[-1].split()[2:]]
    assert np.allclose(boxes_written, np.ravel(boxes), rtol=1e-6)
    lines.append(" ".join(f"{np.float32(v)}" for v in map_.ravel()))
    lines.append(" ".join(str(int(v)) for v in truth.ravel()))
    lines.append(" ".join(repr(float(v)) for v in found))
mean = np.mean(all_figures, 0)
mean[0] = best_f(*np.mean(curves, 0))
aurocs = np.array([f[5] for f in all_figures])
mean[5] = aurocs[aurocs >= 0].mean()
lines.append(" ".join(repr(float(v)) for v in mean))
(Path(__file__).parent / "score.txt").write_text("\n".join(lines) + "\n")
