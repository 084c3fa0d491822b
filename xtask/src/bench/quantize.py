"""The peer of the benchmark `quantize`: ONNX Runtime's own static quantiser on the same model and pictures, and the
throughput of all three models in alternating rounds.

Arguments: model in fp32, our int8 model, folder of JPEG files, where to write the peer's model. Two threads, batch 8."""

import glob
import json
import sys
import time

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

single, ours, folder, theirs = sys.argv[1:]


def pixels(path):
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.BILINEAR)
    left, top = ((side - 224) // 2 for side in image.size)
    array = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
    array = (array - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return array.transpose(2, 0, 1)


images = np.stack([pixels(path) for path in sorted(glob.glob(folder + "/*.jpg"))])


class Reader(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"pixel_values": images[i:i + 1]} for i in range(len(images))])

    def get_next(self):
        return next(self.batches, None)


quantize_static(
    single, theirs, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
open_ = lambda path: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
sessions = {"fp32": open_(single), "ours": open_(ours), "peer": open_(theirs)}
batch = np.ascontiguousarray(images[:8])
times = {name: [] for name in sessions}
for _ in range(5):
    for name, session in sessions.items():
        # In blocks, the first run of which does not count: the threads of the last model still spin for a while.
        for _ in range(6):
            began = time.perf_counter()
            session.run(["embedding"], {"pixel_values": batch})
            times[name].append(time.perf_counter() - began)
        del times[name][-6]
result = {name: len(batch) / sorted(t)[len(t) // 2] for name, t in times.items()}
embeddings = {
    name: np.concatenate([s.run(["embedding"], {"pixel_values": images[i:i + 8]})[0] for i in range(0, len(images), 8)])
    for name, s in sessions.items()
}
for name in embeddings:  # the peer's quantised division leaves lengths beside one
    embeddings[name] /= np.linalg.norm(embeddings[name], axis=1, keepdims=True)
for name in ("ours", "peer"):
    result["cosine_" + name] = float((embeddings[name] * embeddings["fp32"]).sum(1).min())
print(json.dumps(result))
