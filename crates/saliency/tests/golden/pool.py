"""Writes pool.txt: feature maps, masks and their pooled vectors by numpy. Run: python pool.py (needs numpy).

Four lines for each case: `channels height width`, the features (C, h, w), the mask (h, w), the vector (C)."""

from pathlib import Path

import numpy as np

random = np.random.default_rng(11)
lines = []
for channels, height, width, share in [(1, 1, 1, 1), (5, 3, 4, 0.5), (16, 7, 7, 0.3), (8, 2, 9, 0), (3, 4, 4, 1)]:
    features = random.normal(0, 1, (channels, height, width)).astype(np.float32)
    mask = random.random((height, width)) < share
    cells = mask if mask.any() else np.ones_like(mask)  # without foreground, the whole picture counts
    vector = features.astype(np.float64)[:, cells].mean(axis=1)
    vector /= max(np.linalg.norm(vector), 1e-12)
    lines.append(f"{channels} {height} {width}")
    lines.append(" ".join(repr(float(v)) for v in features.ravel()))
    lines.append(" ".join(str(int(v)) for v in mask.ravel()))
    lines.append(" ".join(repr(float(v)) for v in vector))
(Path(__file__).parent / "pool.txt").write_text("\n".join(lines) + "\n")
