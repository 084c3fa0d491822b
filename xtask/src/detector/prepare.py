"""Photos and masks as two sets for a detector: `IMAGES MASKS OUT EVERY`.

Each EVERY-th picture is for testing, the others for training. Writes OUT/train and OUT/test (PNG, nothing is lost), and
OUT/train.json and OUT/test.json: COCO's format, one box for each picture, around all of its mask. Pictures without a mask, or
with an empty one, are left out. Prints the counts."""

import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def foreground(path):
    """As `occlude-train localise --masks` reads a mask: what is not zero, or at least half opaque."""
    mask = Image.open(path)
    if "A" in mask.getbands() and np.asarray(mask.getchannel("A")).min() < 255:
        return np.asarray(mask.getchannel("A")) >= 128
    values = np.asarray(mask)
    return values.any(axis=2) if values.ndim == 3 else values != 0


def main(images, masks, out, every):
    images, masks, out = map(pathlib.Path, (images, masks, out))
    parts = {"train": ([], []), "test": ([], [])}
    names = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)
    used = 0
    for path in names:
        mask = masks / f"{path.stem}.png"
        if not mask.exists():
            continue
        inside = foreground(mask)
        if not inside.any():
            continue
        part = "test" if used % int(every) == int(every) - 1 else "train"
        used += 1
        pictures, boxes = parts[part]
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        if picture.size != inside.shape[::-1]:
            sys.exit(f"`{mask}` has another size than `{path}`")
        (out / part).mkdir(parents=True, exist_ok=True)
        picture.save(out / part / f"{path.stem}.png")
        y, x = np.nonzero(inside)
        box = [int(v) for v in (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1)]
        number = len(pictures) + 1
        width, height = picture.size
        pictures.append({"id": number, "file_name": f"{path.stem}.png", "width": width, "height": height})
        boxes.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "bbox": box, "area": box[2] * box[3]})
    for part, (pictures, boxes) in parts.items():
        data = {"info": {}, "images": pictures, "annotations": boxes, "categories": [{"id": 1, "name": "object"}]}
        (out / f"{part}.json").write_text(json.dumps(data))
    print(json.dumps({part: len(pictures) for part, (pictures, _) in parts.items()}))


main(*sys.argv[1:])
