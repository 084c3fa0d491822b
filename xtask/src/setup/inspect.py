"""Prints one JSON object about the interpreter that runs it; imports none of the heavy packages.

Arguments: the names of distributions whose versions are wanted."""

import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys


def version(name):
    for candidate in (name, name + "-gpu"):
        try:
            return importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def folder(name):
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return places[0] if places else None


runtime = folder("onnxruntime")
libraries = sorted(glob.glob(os.path.join(runtime, "capi", "libonnxruntime.so*"))) if runtime else []
print(json.dumps({
    "python": platform.python_version(),
    "versions": {name: version(name) for name in sys.argv[1:]},
    "torch": folder("torch"),
    "onnxruntime": libraries[-1] if libraries else None,
}))
