"""Loads and unloads the model `live` with Triton's clients. Arguments: the server's HTTP address."""

import sys

import numpy
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

clients = [(http, http.InferenceServerClient(sys.argv[1].removeprefix("http://")), {})]
if "GRPC_ADDRESS":
    clients.append((grpc, grpc.InferenceServerClient("GRPC_ADDRESS"), {"as_json": True}))

pixels = numpy.zeros((2, 32, 32, 3), numpy.uint8)


def infer(module, client):
    tensor = module.InferInput("images", [2, 32, 32, 3], "UINT8")
    tensor.set_data_from_numpy(pixels)
    return client.infer("live", [tensor]).as_numpy("embedding")


def index(client, **more):
    listed = client.get_model_repository_index(**more)
    rows = listed["models"] if isinstance(listed, dict) else listed
    return {row["name"]: row["state"] for row in rows}


for round, (module, client, more) in enumerate(clients, 1):
    assert index(client, **more) == {"live": "UNAVAILABLE", "tiny": "READY"}
    assert not client.is_model_ready("live")
    client.load_model("live")
    assert client.is_model_ready("live") and index(client, **more)["live"] == "READY"
    assert infer(module, client).shape == (2, 8)
    stats = client.get_inference_statistics("live", **more)["model_stats"]
    assert len(stats) == 1 and int(stats[0]["inference_count"]) == 2 * round, stats
    assert int(stats[0]["inference_stats"]["success"]["count"]) == round, stats
    assert len(client.get_inference_statistics(**more)["model_stats"]) == 2
    client.unload_model("live")
    assert not client.is_model_ready("live") and index(client, **more)["live"] == "UNAVAILABLE"
    for call, arguments, told in (
        (client.load_model, {"model_name": "none"}, "there is no model `none` to load"),
        (client.load_model, {"model_name": "live", "config": "{}"}, "`config` is not supported"),
        (client.unload_model, {"model_name": "tiny"}, "was started with the model `tiny`"),
    ):
        try:
            call(**arguments)
        except InferenceServerException as raised:
            assert told in str(raised), raised
        else:
            raise AssertionError("no error")
