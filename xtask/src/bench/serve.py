"""The peer of the benchmark `serve`: Pillow and ONNX Runtime in one Python process.

Arguments: the ONNX file with float input, a folder of JPEG files. Prints images/s."""

import glob
import json
import os
import sys
import time

import numpy as np
import onnxruntime
from PIL import Image

model, folder = sys.argv[1:3]
files = sorted(glob.glob(os.path.join(folder, "*.jpg")))
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
contract = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
mean, std = (np.float32(contract[key]) for key in ("mean", "std"))
resize, crop = contract["resize"], contract["crop"]


def tensor(path):
    image = Image.open(path).convert("RGB")
    scale = resize / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.BILINEAR)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), dtype=np.float32)
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1)


def rate(batch, count, ready=None):
    done, began = 0, time.perf_counter()
    while done < count:
        pixels = ready if ready is not None else np.stack(
            [tensor(files[(done + i) % len(files)]) for i in range(batch)])
        session.run(["embedding"], {"pixel_values": pixels})
        done += batch
    return done / (time.perf_counter() - began)


rate(8, 16)
rate(1, 4)
ready = np.stack([tensor(path) for path in files[:8]])
print(json.dumps({"batch8": rate(8, 96), "single": rate(1, 64), "ready": rate(8, 96, ready)}))
