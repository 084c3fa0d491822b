"""Requests over gRPC, which is HTTP/2, at a rate whatever the answers say.

Arguments: the server's gRPC address, its model, a folder of pictures, requests a second, seconds, calls at once at most. Prints what
came of them: seconds of those that were answered, of those that were refused (`UNAVAILABLE`), and all other outcomes."""

import asyncio
import glob
import json
import sys
import time

import grpc
import numpy
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

address, model, folder = sys.argv[1:4]
rate, seconds, most = float(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])


def request(path):
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="files", shape=[1], datatype="BYTES")
    files = serialize_byte_tensor(numpy.array([open(path, "rb").read()], dtype=object)).item()
    return service_pb2.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[files])


async def main():
    requests = [request(path) for path in sorted(glob.glob(f"{folder}/*"))]
    accepted, refused, odd = [], [], []
    channels = [grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    calls = [service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer for channel in channels]
    inside, start = 0, time.perf_counter()

    async def ask(i):
        nonlocal inside
        began = time.perf_counter()
        try:
            await calls[i % len(calls)](requests[i % len(requests)])
            accepted.append(time.perf_counter() - began)
        except grpc.aio.AioRpcError as error:
            told = dict(error.initial_metadata() or ()) | dict(error.trailing_metadata() or ())
            if error.code() == grpc.StatusCode.UNAVAILABLE and told.get("x-occlude-code") == "overloaded":
                refused.append(time.perf_counter() - began)
            else:
                odd.append(f"{error.code().name} {error.details()}")
        inside -= 1

    running, i = set(), 0
    while (now := time.perf_counter() - start) < seconds:
        if i / rate > now:
            await asyncio.sleep(i / rate - now)
        if inside < most:
            inside += 1
            task = asyncio.create_task(ask(i))
            running.add(task)
            task.add_done_callback(running.discard)
            i += 1
        else:
            await asyncio.sleep(0.001)
    if running:
        await asyncio.wait(set(running))
    print(json.dumps({"accepted": accepted, "refused": refused, "odd": odd, "seconds": time.perf_counter() - start}))


asyncio.run(main())
