"""The usual server, a peer of the benchmark `serve`: FastAPI, uvicorn, Pillow and one session of ONNX Runtime.

Arguments: folder of packages, model (float input), port, number of threads."""

import io
import json
import sys

packages, model, port, threads = sys.argv[1:]
sys.path.append(packages)

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool
from PIL import Image

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
contract = json.loads(session.get_modelmeta().custom_metadata_map["preprocess"])
mean, std = (np.float32(contract[key]) for key in ("mean", "std"))
resize, crop = contract["resize"], contract["crop"]
app = FastAPI()


def encode(data):
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = resize / min(image.size)
    image = image.resize([int(side * scale) for side in image.size], Image.BILINEAR)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), dtype=np.float32)
    pixels = ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]
    return session.run(["embedding"], {"pixel_values": pixels})[0][0].tolist()


@app.post("/v1/embed")
async def embed(file: UploadFile):
    data = await file.read()
    return {"embedding": await run_in_threadpool(encode, data)}


@app.get("/readyz")
async def ready():
    return {}


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
