"""Makes the JPEG files of this folder with Pillow: one scene in every variant that the view decoder tells apart."""

from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent

y, x = np.mgrid[0:83, 0:131]
scene = np.stack([127 + 90 * np.sin(x / 17), 127 + 90 * np.cos(y / 11), 40 + (x + y) * 0.8], -1)
scene[(x - 70) ** 2 + (y - 40) ** 2 < 500] = (200, 70, 50)
scene += np.random.default_rng(0).normal(0, 3, scene.shape)
picture = Image.fromarray(scene.clip(0, 255).astype(np.uint8))

for name, sampling in [("444", "4:4:4"), ("422", "4:2:2"), ("420", "4:2:0")]:
    picture.save(HERE / f"{name}.jpg", quality=88, subsampling=sampling)
picture.convert("L").save(HERE / "grey.jpg", quality=88)
picture.save(HERE / "restart.jpg", quality=88, subsampling="4:2:0", restart_marker_blocks=3)
picture.save(HERE / "optimised.jpg", quality=97, subsampling="4:2:0", optimize=True)
picture.save(HERE / "progressive.jpg", quality=88, subsampling="4:2:0", progressive=True)
