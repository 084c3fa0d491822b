"""Calls the server with Triton's client by gRPC, and by HTTP for comparison. Arguments: the server's HTTP address; in
the folder lie `photo.png` and `crop.png`, whose middle 32 x 32 pixels are what the fixture models see."""

import base64
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy
from PIL import Image
from tritonclient import grpc as triton
from tritonclient import http as http_triton
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

ADDRESS, KEY = "GRPC_ADDRESS", {"authorization": "Bearer API_KEY"}
client = triton.InferenceServerClient(ADDRESS)
http = http_triton.InferenceServerClient(sys.argv[1].removeprefix("http://"), connection_timeout=60)
photo, crop = (open(name, "rb").read() for name in ("photo.png", "crop.png"))
NAMES = ("embedding", "saliency")


def infer(name, array, datatype, model="tiny", headers=KEY, **more):
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor], headers=headers, **more)


def by_http(name, array, datatype, model="tiny"):
    tensor = http_triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    # This client adds to the headers that it is given.
    return http.infer(model, [tensor], headers=dict(KEY))


def error(*arguments, **more):
    try:
        infer(*arguments, **more)
    except InferenceServerException as raised:
        return raised.status(), raised.message()
    raise AssertionError("no error")


def bits(answer):
    return [answer.as_numpy(name).tobytes() for name in NAMES]


assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready("tiny", headers=KEY) and client.is_model_ready("uint8", "1", headers=KEY)
assert not client.is_model_ready("none", headers=KEY) and not client.is_model_ready("tiny", "2", headers=KEY)
about = client.get_server_metadata(as_json=True)
assert about["name"] == "occlude-serve" and about == http.get_server_metadata(), about
metadata = client.get_model_metadata("tiny", headers=KEY, as_json=True)
over_http = http.get_model_metadata("tiny", headers=KEY)
for key in ("name", "versions", "platform", "inputs", "outputs"):
    there = [dict(t, shape=[str(d) for d in t["shape"]]) for t in over_http[key]] if key.endswith("puts") else over_http[key]
    assert metadata[key] == there, (metadata[key], there)

config = client.get_model_config("tiny", headers=KEY, as_json=True)["config"]
there = http.get_model_config("tiny", headers=KEY)
for key in ("name", "platform", "backend", "max_batch_size"):
    assert config[key] == there[key], (key, config, there)
for key in ("input", "output"):
    assert config[key] == [dict(t, dims=[str(d) for d in t["dims"]]) for t in there[key]], (config, there)

# The same bits as by HTTP, whatever is sent.
files = numpy.array([photo, crop], dtype=object)
pixels = numpy.ascontiguousarray(numpy.asarray(Image.open("crop.png"))[None, 2:34, 2:34])
mean, std = numpy.float32([0.485, 0.456, 0.406]), numpy.float32([0.229, 0.224, 0.225])
planes = numpy.ascontiguousarray(((pixels.astype(numpy.float32) / 255 - mean) / std).transpose(0, 3, 1, 2))
for sent in (
    ("files", files, "BYTES"),
    ("files", files[:1].reshape(1, 1), "BYTES", "uint8"),
    ("images", pixels, "UINT8"),
    ("images", pixels, "UINT8", "uint8"),
    ("pixel_values", planes, "FP32"),
):
    assert bits(infer(*sent)) == bits(by_http(*sent)), sent[0]
both = infer("files", files, "BYTES", request_id="17")
assert both.get_response().id == "17" and both.get_response().model_version == "1"
assert both.as_numpy("embedding").shape == (2, 8) and both.as_numpy("saliency").shape == (2, 4, 4)
assert both.as_numpy("embedding").dtype == numpy.float32
outputs = [triton.InferRequestedOutput("saliency")]
only = infer("files", files, "BYTES", outputs=outputs)
assert only.as_numpy("embedding") is None and only.as_numpy("saliency").tobytes() == bits(both)[1]
for coding in ("gzip", "deflate"):
    assert bits(infer("files", files, "BYTES", compression_algorithm=coding)) == bits(both), coding

# Lists of elements in place of bytes, which the client itself does not write.
stub = service_pb2_grpc.GRPCInferenceServiceStub(grpc.insecure_channel(ADDRESS))
metadata_key = tuple(KEY.items())


def typed(name, datatype, shape, parameters={}, **contents):
    request = service_pb2.ModelInferRequest(model_name="tiny")
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    tensor.contents.MergeFrom(service_pb2.InferTensorContents(**contents))
    for key, value in parameters.items():
        tensor.parameters[key].string_param = value
    return triton.InferResult(stub.ModelInfer(request, metadata=metadata_key))


assert bits(typed("files", "BYTES", [2], bytes_contents=list(files))) == bits(both)
coded = [base64.b64encode(f) for f in files]
assert bits(typed("files", "BYTES", [2], {"content_type": "base64"}, bytes_contents=coded)) == bits(both)
want = bits(infer("images", pixels, "UINT8"))
assert bits(typed("images", "UINT8", [1, 32, 32, 3], uint_contents=pixels.ravel().tolist())) == want
want = bits(infer("pixel_values", planes, "FP32"))
assert bits(typed("pixel_values", "FP32", [1, 3, 32, 32], fp32_contents=planes.ravel().tolist())) == want


def refused(code, text, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except grpc.RpcError as raised:
        assert raised.code() == code and text in raised.details(), raised
        return
    raise AssertionError("no error")


INVALID = grpc.StatusCode.INVALID_ARGUMENT
refused(INVALID, "`uint_contents` has 1 elements, but the shape has 3072", typed, "images", "UINT8", [1, 32, 32, 3], uint_contents=[1])
refused(INVALID, "a value that is not UINT8: 256", typed, "images", "UINT8", [1, 32, 32, 3], uint_contents=[256] * 3072)
refused(INVALID, "expected either `contents` or `raw_input_contents`", stub.ModelInfer,
        service_pb2.ModelInferRequest(model_name="tiny", inputs=[{"name": "files", "datatype": "BYTES", "shape": [1]}]),
        metadata=metadata_key)
refused(INVALID, "has shape [-1]", typed, "files", "BYTES", [-1], bytes_contents=[b""])
refused(grpc.StatusCode.UNIMPLEMENTED, "there is no call", stub.TraceSetting, service_pb2.TraceSettingRequest(), metadata=metadata_key)

# Errors have the server's message, and say what to do.
status, text = error("images", numpy.zeros((1, 3, 32, 32), numpy.uint8), "UINT8")
assert status == "StatusCode.INVALID_ARGUMENT" and "has shape [1, 3, 32, 32]: expected [n, 32, 32, 3]" in text, text
assert "; hint: " in text, text
status, text = error("images", numpy.zeros((1, 32, 32, 3), numpy.float32), "FP32")
assert status == "StatusCode.INVALID_ARGUMENT" and "is FP32: expected UINT8" in text, text
status, text = error("pixel_values", planes, "FP32", model="uint8")
assert status == "StatusCode.INVALID_ARGUMENT" and "the model has no input `pixel_values`" in text, text
status, text = error("files", numpy.array([b"no picture"], dtype=object), "BYTES")
assert status == "StatusCode.INVALID_ARGUMENT" and "not" in text, text
status, text = error("files", files, "BYTES", model="none")
assert status == "StatusCode.NOT_FOUND" and "there is no model `none`" in text, text
status, text = error("files", files, "BYTES", outputs=[triton.InferRequestedOutput("logits")])
assert status == "StatusCode.INVALID_ARGUMENT" and "no output `logits`" in text, text
status, text = error("files", files, "BYTES", outputs=[triton.InferRequestedOutput("embedding", class_count=3)])
assert status == "StatusCode.INVALID_ARGUMENT" and "not supported" in text, text
status, text = error("files", files, "BYTES", headers={})
assert status == "StatusCode.UNAUTHENTICATED" and "requires an API key" in text, text
for size in (2 << 20, 40 << 20):
    status, text = error("files", numpy.array([bytes(size)], dtype=object), "BYTES")
    assert status == "StatusCode.RESOURCE_EXHAUSTED" and "larger than 1048576 bytes" in text, (size, status, text)
assert bits(infer("files", files, "BYTES")) == bits(both), "the connection goes on"


# Several at once, on one connection: everybody gets their own answer.
def one(i):
    colour = numpy.full((1, 32, 32, 3), i, numpy.uint8)
    return infer("images", colour, "UINT8").as_numpy("embedding")


with ThreadPoolExecutor(16) as pool:
    at_once = list(pool.map(one, range(96)))
for i, got in enumerate(at_once):
    assert numpy.allclose(got, one(i), rtol=1e-4, atol=1e-4), i
