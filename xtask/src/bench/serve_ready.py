"""The peer of the benchmark `serve` without any serving: ONNX Runtime on tensors that lie ready in memory.

Arguments: folder of JPEG files, number of threads, then the models (float input). For every line on
stdin, the number of a model, one block of batches is run and its images/s printed."""

import glob
import json
import os
import sys
import time

import numpy as np
import onnxruntime
from PIL import Image

folder, threads, *models = sys.argv[1:]
BATCH, RUNS = 8, 12
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
sessions = [onnxruntime.InferenceSession(m, options, providers=["CPUExecutionProvider"]) for m in models]
contract = json.loads(sessions[0].get_modelmeta().custom_metadata_map["preprocess"])
mean, std = (np.float32(contract[key]) for key in ("mean", "std"))
resize, crop = contract["resize"], contract["crop"]


def tensor(path):
    image = Image.open(path).convert("RGB")
    scale = resize / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.BILINEAR)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), dtype=np.float32)
    return ((pixels / 255 - mean) / std).transpose(2, 0, 1)


files = sorted(glob.glob(os.path.join(folder, "**/*.jp*g"), recursive=True))
ready = [np.ascontiguousarray(np.stack([tensor(path) for path in files[i:i + BATCH]])) for i in (0, BATCH)]
print("ready", flush=True)
for line in sys.stdin:
    session = sessions[int(line)]
    run = lambda i: session.run(["embedding"], {"pixel_values": ready[i % 2]})
    run(0)
    began = time.perf_counter()
    for i in range(RUNS):
        run(i)
    print(BATCH * RUNS / (time.perf_counter() - began), flush=True)
