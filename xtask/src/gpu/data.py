"""Pictures of the kit. Arguments: the kit's `data`, the longest shorter side for accuracy, the number of photos for speed, then folders.

A folder with `train` and `test` (or `validation`, or `val`) becomes a data set for accuracy, its pictures made smaller where they are
larger; any other gives photos, whose shorter side is 400 at most. Without photos some are generated. Prints what was written."""

import os
import sys

import numpy as np
from PIL import Image, ImageOps

out, side, photos, *folders = sys.argv[1:]
side, photos = int(side), int(photos)
PHOTO_SIDE = 400


def pictures(folder):
    """JPEG files of a folder and those below, in a fixed order."""
    found = []
    for place, _, names in os.walk(folder):
        found += [os.path.join(place, name) for name in names if name.lower().endswith((".jpg", ".jpeg"))]
    return sorted(found)


def smaller(source, target, most):
    """A copy whose shorter side is at most `most`; the file itself where it is."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with Image.open(source) as image:
        shorter = min(image.size)
        if shorter > most:
            image = ImageOps.exif_transpose(image).convert("RGB")
            size = [max(1, round(length * most / shorter)) for length in image.size]
            image.resize(size, Image.LANCZOS, reducing_gap=3).save(target, quality=90)
            return
    with open(source, "rb") as file, open(target, "wb") as copy:
        copy.write(file.read())


def data_set(folder, test, name):
    files = 0
    for part, place in (("train", "train"), ("test", test)):
        root = os.path.join(folder, place)
        for path in pictures(root):
            target = os.path.join(out, name, part, os.path.splitext(os.path.relpath(path, root))[0] + ".jpg")
            smaller(path, target, side)
            files += 1
    if files == 0:
        sys.exit(f"error: `{folder}` has no JPEG files\nhint: only JPEG pictures travel")
    print(f"{name}: {files} pictures, shorter side at most {side}")


def generate(path, random):
    """Coarse shapes, finer ones and a little noise: about the size of a camera's photos."""
    photo = np.zeros((375, 500, 3))
    for cells, weight in ((6, 0.55), (40, 0.3), (200, 0.15)):
        layer = random.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        photo += weight * np.asarray(Image.fromarray(layer).resize((500, 375), Image.BICUBIC), float)
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(path, quality=85)


sources, names = [], {"photos"}
for folder in folders:
    test = next((name for name in ("test", "validation", "val") if os.path.isdir(os.path.join(folder, name))), None)
    if test is None or not os.path.isdir(os.path.join(folder, "train")):
        sources += pictures(folder)
        continue
    name = os.path.basename(os.path.normpath(folder))
    while name in names:
        name += "-2"
    names.add(name)
    data_set(folder, test, name)

place = os.path.join(out, "photos")
os.makedirs(place)
if sources:
    step = max(1, len(sources) // photos)
    chosen = sources[::step][:photos]
    for number, path in enumerate(chosen):
        smaller(path, os.path.join(place, f"{number:04}.jpg"), PHOTO_SIDE)
    print(f"photos: {len(chosen)}, shorter side at most {PHOTO_SIDE}")
elif any(pictures(folder) for folder in folders) or not folders:
    random = np.random.default_rng(0)
    for number in range(min(photos, 64)):
        generate(os.path.join(place, f"{number:04}.jpg"), random)
    print(f"photos: {min(photos, 64)}, generated")
else:
    sys.exit("error: `--data` has no JPEG files\nhint: only JPEG pictures travel")
