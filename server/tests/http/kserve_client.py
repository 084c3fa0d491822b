"""Calls the server with Triton's client. Arguments: the server's address; in the folder lie `photo.png` and `crop.png`,
whose middle 32 x 32 pixels are what the fixture models see."""

import base64
import sys

import numpy
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

client = InferenceServerClient(sys.argv[1].removeprefix("http://"))
photo, crop = (open(name, "rb").read() for name in ("photo.png", "crop.png"))


def infer(name, array, datatype, binary=True, model="tiny", **more):
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return client.infer(model, [tensor], **more)


def error(*arguments, **more):
    try:
        infer(*arguments, **more)
    except InferenceServerException as raised:
        return raised.status(), str(raised)
    raise AssertionError("no error")


def same(a, b):
    return numpy.allclose(a, b, rtol=1e-4, atol=1e-4)


assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("tiny") and client.is_model_ready("uint8", "1")
assert not client.is_model_ready("none") and not client.is_model_ready("tiny", "2")
assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
config = client.get_model_config("tiny")
assert (config["name"], config["backend"], config["max_batch_size"]) == ("tiny", "onnxruntime", 32), config
dims = {t["name"]: (t["data_type"], t["dims"]) for t in config["input"] + config["output"]}
assert dims["files"] == ("TYPE_STRING", [1]) and dims["images"] == ("TYPE_UINT8", [32, 32, 3]), dims
assert dims["embedding"] == ("TYPE_FP32", [8]), dims
metadata = client.get_model_metadata("tiny")
shapes = {t["name"]: (t["datatype"], t["shape"]) for t in metadata["inputs"] + metadata["outputs"]}
assert shapes["files"] == ("BYTES", [-1]) and shapes["images"] == ("UINT8", [-1, 32, 32, 3]), shapes
assert shapes["embedding"] == ("FP32", [-1, 8]), shapes

# Files: binary, which is the client's default, and base64 in JSON.
files = numpy.array([photo, crop], dtype=object)
both = infer("files", files, "BYTES", request_id="17")
assert both.get_response()["id"] == "17" and both.get_response()["model_version"] == "1"
embedding, saliency = both.as_numpy("embedding"), both.as_numpy("saliency")
assert embedding.shape == (2, 8) and saliency.shape == (2, 4, 4), (embedding.shape, saliency.shape)
assert embedding.dtype == numpy.float32
coded = numpy.array([base64.b64encode(f).decode() for f in files], dtype=object)
outputs = [InferRequestedOutput("embedding", binary_data=False), InferRequestedOutput("saliency", binary_data=True)]
mixed = infer("files", coded, "BYTES", binary=False, outputs=outputs)
assert same(mixed.as_numpy("embedding"), embedding) and same(mixed.as_numpy("saliency"), saliency)
only = infer("files", files, "BYTES", outputs=[InferRequestedOutput("saliency")])
assert only.as_numpy("embedding") is None and same(only.as_numpy("saliency"), saliency)

# Pixels that already have the contract's crop.
pixels = numpy.asarray(Image.open("crop.png"))[None, 2:34, 2:34]
for model in ("tiny", "uint8"):
    want = infer("files", files[1:], "BYTES", model=model).as_numpy("embedding")
    for binary in (True, False):
        got = infer("images", numpy.ascontiguousarray(pixels), "UINT8", binary=binary, model=model)
        assert same(got.as_numpy("embedding"), want), (model, binary)

# The same, normalised here: what the graph itself takes.
mean, std = numpy.float32([0.485, 0.456, 0.406]), numpy.float32([0.229, 0.224, 0.225])
tensor = ((pixels.astype(numpy.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
want = infer("files", files[1:], "BYTES").as_numpy("embedding")
for binary in (True, False):
    got = infer("pixel_values", numpy.ascontiguousarray(tensor), "FP32", binary=binary)
    assert same(got.as_numpy("embedding"), want), binary
status, text = error("pixel_values", numpy.full((1, 3, 32, 32), numpy.nan, numpy.float32), "FP32")
assert status == "422" and "has NaN at 0" in text, text
status, text = error("pixel_values", numpy.ascontiguousarray(tensor), "FP32", model="uint8")
assert status == "422" and "the model has no input `pixel_values`" in text, text

# Errors have the server's message.
status, text = error("images", numpy.zeros((1, 3, 32, 32), numpy.uint8), "UINT8")
assert status == "422" and "has shape [1, 3, 32, 32]: expected [n, 32, 32, 3]" in text, text
status, text = error("images", numpy.zeros((1, 32, 32, 3), numpy.float32), "FP32")
assert status == "422" and "is FP32: expected UINT8" in text, text
status, text = error("pixels", files, "BYTES")
assert status == "422" and "has no input `pixels`" in text, text
status, text = error("files", numpy.array([b"no picture"], dtype=object), "BYTES")
assert status == "415" and text.startswith("[415] "), text
status, text = error("files", files, "BYTES", model="none")
assert status == "404" and "there is no model `none`" in text, text
status, text = error("files", files, "BYTES", outputs=[InferRequestedOutput("logits")])
assert status == "422" and "no output `logits`" in text, text
