"""Writes prior.txt: pictures and their border-colour maps by numpy, in double precision. Run: python prior.py (needs numpy).

Three lines for each case: `height width`, the bytes of the picture (h, w, 3), the map (h, w)."""

from pathlib import Path

import numpy as np


def lab(rgb):
    c = rgb / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = c @ np.array(to_xyz).T / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def blur(plane, sigma):
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    padded = np.pad(plane, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
    return (windows * kernel).sum((-2, -1))


def border_colour(rgb):
    height, width = rgb.shape[:2]
    colours = lab(rgb.astype(float))
    border = max(round(0.05 * min(height, width)), 1)
    strips = colours[:border], colours[-border:], colours[:, :border], colours[:, -border:]
    means = np.array([strip.reshape(-1, 3).mean(0) for strip in strips])
    away = np.linalg.norm(colours[:, :, None] - means, axis=-1).min(-1)
    away = blur(away, 0.01 * max(height, width))
    away = (away - away.min()) / (away.max() - away.min())
    y, x = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    return away * np.exp(-0.5 * ((y / 0.22) ** 2)[:, None] - 0.5 * ((x / 0.22) ** 2)[None])


random = np.random.default_rng(3)
lines = []
for height, width in [(2, 3), (9, 14), (31, 12), (24, 44)]:
    rgb = random.integers(0, 256, (height, width, 3)) * random.uniform(0.2, 1, 3)
    rgb[height // 3 : 2 * height // 3, width // 4 : width // 2] = [230, 190, 20]
    rgb = rgb.astype(np.uint8)
    lines.append(f"{height} {width}")
    lines.append(" ".join(str(v) for v in rgb.ravel()))
    lines.append(" ".join(f"{v:.7g}" for v in border_colour(rgb).ravel()))
(Path(__file__).parent / "prior.txt").write_text("\n".join(lines) + "\n")
