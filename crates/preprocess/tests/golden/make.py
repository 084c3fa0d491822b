"""Makes the golden files of this folder with Pillow and torchvision.

photo.jpg: a drawn scene. pixels.raw: uint8 (crop, crop, 3) after Resize and CenterCrop.
tensor.raw: float32 (3, crop, crop), normalised and high-pass filtered. contract.json: how.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.transforms import functional as F

HERE = Path(__file__).parent
CONTRACT = {
    "version": 1,
    "color": "RGB",
    "resize": 48,
    "crop": 40,
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "high_pass": {"kernel": 11, "sigma": 5.0},
}

y, x = np.mgrid[0:83, 0:131]
scene = np.stack([127 + 100 * np.sin(x / 17), 127 + 100 * np.cos(y / 11), (x + y) % 256], -1)
scene[(x - 70) ** 2 + (y - 40) ** 2 < 500] = (220, 60, 30)
Image.fromarray(scene.astype(np.uint8)).save(HERE / "photo.jpg", quality=90)

resized = F.resize(Image.open(HERE / "photo.jpg"), CONTRACT["resize"], F.InterpolationMode.BICUBIC)
pixels = F.center_crop(resized, [CONTRACT["crop"]] * 2)
tensor = F.normalize(F.to_tensor(pixels), CONTRACT["mean"], CONTRACT["std"])
filtered = tensor - F.gaussian_blur(tensor, [11, 11], [5.0, 5.0])
np.asarray(pixels).tofile(HERE / "pixels.raw")
filtered.numpy().tofile(HERE / "tensor.raw")
(HERE / "contract.json").write_text(json.dumps(CONTRACT, separators=(",", ":")) + "\n")
