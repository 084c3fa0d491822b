"""The steps around the server: its answers checked, its speed for few and many clients, and what it does with the card's memory."""

import ctypes.util
import glob
import json
import os
import shutil
import signal
import socket
import time
import urllib.error
import urllib.request

from runner import Failed, Skipped, cores, last_line
from training import failed, last

BATCH = 32
BOUNDARY = "part-of-the-kit"


def provider(run):
    return "cuda" if run.device == "cuda" else "cpu"


def model(run, precision):
    return run.file("models", f"{precision}.onnx")


def get(url, data=None, kind="application/json", patience=60):
    """The body of an answer; a `Failed` where it is none of 200."""
    request = urllib.request.Request(url, data, {"content-type": kind} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=patience) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise Failed(f"answered {error.code}: {error.read(200).decode(errors='replace')}") from None
    except OSError as error:
        raise Failed(f"no answer: {error}") from None


class Server:
    """A running `occlude-serve`; ended with the `with` block."""

    def __init__(self, run, path, log, more=(), env=None):
        self.run, self.log = run, os.path.join(run.logs, log + ".log")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        words = [*run.tool("occlude-serve"), "--model", path, "--provider", provider(run), "--port", str(port), "--log-level", "warn", *map(str, more)]
        with open(self.log, "a") as file:
            print("$", *words, file=file, flush=True)
            self.start = time.monotonic()
            self.process = run.spawn(words, file, {**run.native(), **(env or {})})

    def __enter__(self):
        while True:
            try:
                get(self.url + "/readyz", patience=5)
                self.ready = time.monotonic() - self.start
                return self
            except Failed:
                pass
            code = self.process.poll()
            if code is not None:
                self.run.running.discard(self.process)
                raise Failed(f"the server ended with exit code {code}: {last_line(self.log)}")
            if self.run.left() <= 0 or time.monotonic() - self.start > 240:
                self.run.finish(self.process)
                raise Failed("the server was not ready in time")
            time.sleep(0.05)

    def __exit__(self, *_):
        self.run.finish(self.process)

    def memory(self):
        """MiB that the card has in use, or on the CPU the server's own."""
        if self.run.device == "cuda":
            return self.run.card.now()
        try:
            with open(f"/proc/{self.process.pid}/status") as file:
                return next(int(row.split()[1]) // 1024 for row in file if row.startswith("VmRSS"))
        except (OSError, StopIteration):
            return 0


def golden(run):
    """A server starts only where it answers the golden picture that was computed on a CPU: float32 without and with TF32, float16."""
    figures, bad = {}, []
    cases = [("fp32", "fp32", {"NVIDIA_TF32_OVERRIDE": "0"}), ("fp32 with TF32", "fp32", {}), ("fp16", "fp16", {})]
    for name, precision, env in cases:
        try:
            with Server(run, model(run, precision), f"golden {name}", ["--max-batch", 2], env) as server:
                figures[name] = {"ready_seconds": round(server.ready, 2)}
        except Failed as reason:
            bad.append(f"{name}: {reason}")
    if bad:
        raise failed("; ".join(bad), figures)
    return figures


def serve(run, precision, more=(), clients="1,16,128"):
    """Images a second and waiting times of our clients; `N clients` is their name."""
    clients, seconds = ("1,4", 0.5) if run.tiny else (clients, 4)
    name = f"serve {precision}" + "".join(f" {word}" for word in map(str, more)).replace("--", "")
    flags = ["--max-batch", 4 if run.tiny else BATCH, "--max-queue", 512, *more]
    with Server(run, model(run, precision), name, flags) as server:
        loaded = server.memory()
        words = [run.file("bin", "xtask"), "load", server.url, run.file("data", "photos"), "--clients", clients, "--seconds", seconds]
        rows = [json.loads(row) for row in run.command(words, name, 90).splitlines()]
        figures = {f"{row.pop('clients')} clients": row for row in rows}
        figures.update(ready_seconds=round(server.ready, 2), loaded_mib=loaded, full_mib=server.memory())
    wrong = [f"{name}: {row['failure']}" for name, row in figures.items() if isinstance(row, dict) and row["failed"]]
    if wrong or not rows or not all(row["answered"] for row in rows):
        raise failed("; ".join(wrong) or "nothing was answered", figures)
    return figures


def alone(run, precision, where=None):
    """ONNX Runtime without a server, on tensors that lie ready."""
    batches = [1, 4] if run.tiny else [1, 8, BATCH, 128]
    figures = {}
    for batch in batches:
        words = [run.file("bin", "ready"), model(run, precision), where or provider(run), batch, 0.3 if run.tiny else 3]
        found = last(run.command(words, f"alone {precision}", 120 if where is None else 200, run.native()))
        figures[f"batch {batch}"] = found["images_per_second"]
    return {**figures, "images_per_second": max(figures.values())}


def tensorrt(run):
    """The same with NVIDIA's compiler, where its library is on the machine."""
    if run.device != "cuda":
        raise Skipped("only for CUDA")
    if not ctypes.util.find_library("nvinfer"):
        raise Skipped("libnvinfer is not on this machine")
    run.file("lib", "libonnxruntime_providers_tensorrt.so")
    return alone(run, "fp16", "tensorrt")


def decoding(run):
    """Images a second for numbers of decoding threads, up to one for each core."""
    counts = sorted({max(1, cores() // part) for part in ((1,) if run.tiny else (8, 4, 2, 1))})
    figures = {"cores": cores()}
    for count in counts:
        found = serve(run, "fp16", ("--decode-threads", count), "128")
        figures[f"{count} threads"] = next(row for name, row in found.items() if name.endswith("clients"))["images_per_second"]
    return figures


def form(files):
    """A form of files, as bytes."""
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="a.jpg"\r\ncontent-type: image/jpeg\r\n\r\n'.encode()
    return b"".join(head + data + b"\r\n" for data in files) + f"--{BOUNDARY}--\r\n".encode()


def cold(run):
    """Seconds until the server is ready, and what the first request of a number of pictures takes beside the second."""
    photos = sorted(glob.glob(os.path.join(run.file("data", "photos"), "*.jpg")))
    data = [open(path, "rb").read() for path in photos[:BATCH]]
    figures = {}
    with Server(run, model(run, "fp16"), "cold", ["--max-batch", 4 if run.tiny else BATCH]) as server:
        figures["ready_seconds"] = round(server.ready, 2)
        for count in (1, 3) if run.tiny else (1, 3, 7, 13, 32):
            body = form((data * count)[:count])
            times = []
            for _ in range(3):
                start = time.perf_counter()
                get(server.url + "/v1/embed", body, f"multipart/form-data; boundary={BOUNDARY}")
                times.append(round(1e3 * (time.perf_counter() - start), 2))
            figures[f"{count} pictures"] = {"first_ms": times[0], "later_ms": min(times[1:])}
    return figures


def given_back(run):
    """Memory before, with a model, after it was replaced twice, and after the end."""
    path = os.path.join(run.work, "replaced.onnx")
    shutil.copyfile(model(run, "fp16"), path)
    before = run.card.now() or 0
    with Server(run, path, "memory", ["--max-batch", 2 if run.tiny else 8, "--watch", "0"]) as server:
        figures = {"before": before, "loaded": server.memory()}
        for number in (1, 2):
            replace(run, server, path, model(run, "fp32" if number == 1 else "fp16"))
            figures[f"replaced {number}"] = server.memory()
    figures["after"] = run.card.now() or 0
    if figures["after"] > figures["before"] + 64:
        raise failed("memory is missing after the server's end", figures)
    if run.device == "cuda" and figures["replaced 2"] > 1.2 * figures["loaded"] + 64:
        raise failed("a replaced model did not give its memory back", figures)
    return figures


def replace(run, server, path, other):
    """Puts another file in the model's place and waits until the server says that it has it."""
    part = path + ".part"
    shutil.copyfile(other, part)
    os.replace(part, path)
    before = reloads(server)
    os.kill(server.process.pid, signal.SIGHUP)
    end = time.monotonic() + min(60, max(0, run.left()))
    while (after := reloads(server)) == before:
        if time.monotonic() > end:
            raise Failed("the server did not look at the replaced model")
        time.sleep(0.1)
    if after["failed"] != before["failed"]:
        raise Failed(f"the server did not take the replaced model: {last_line(server.log)}")


def reloads(server):
    """How often the server has taken another model, and refused one."""
    rows = [row for row in get(server.url + "/metrics").decode().splitlines() if row.startswith("occlude_model_reloads_total")]
    return {result: sum(float(row.split()[-1]) for row in rows if f'result="{result}"' in row) for result in ("ok", "failed")}


def steps(run):
    """Name, stage and work, in order of worth."""
    yield "golden picture", "serve", lambda: golden(run)
    for precision in ("fp16", "fp32"):
        yield f"serve {precision}", "serve", lambda precision=precision: serve(run, precision)
        yield f"alone {precision}", "serve", lambda precision=precision: alone(run, precision)
    yield "memory given back", "serve", lambda: given_back(run)
    yield "cold shapes", "serve", lambda: cold(run)
    yield "decoding threads", "serve", lambda: decoding(run)
    yield "TensorRT", "serve", lambda: tensorrt(run)
