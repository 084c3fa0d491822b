"""Compares a Detectron2 pickle with the query encoder of a checkpoint, bit by bit.

The names are derived here from the layout of Detectron2's ResNet, on purpose not by our table: walk the stages and
blocks. Arguments: pickle, checkpoint. Prints one JSON object."""

import json
import pickle
import sys

import numpy
from safetensors.numpy import load_file

with open(sys.argv[1], "rb") as file:
    payload = pickle.load(file)
assert sorted(payload) == ["__author__", "matching_heuristics", "model"], sorted(payload)
assert payload["matching_heuristics"] is True
found = payload["model"]
encoder = {k.removeprefix("encoder_q."): v for k, v in load_file(sys.argv[2]).items() if k.startswith("encoder_q.")}


def detectron(name):
    parts = name.split(".")
    if parts[0] == "conv1":
        return "stem.conv1.weight"
    if parts[0] == "bn1":
        return "stem.conv1.norm." + parts[1]
    if not parts[0].startswith("layer"):
        return None
    place = f"res{int(parts[0][5:]) + 1}.{parts[1]}"
    if parts[2] == "downsample":
        return f"{place}.shortcut." + ("weight" if parts[3] == "0" else "norm." + parts[4])
    unit = "conv" + parts[2][-1]
    return f"{place}.{unit}." + ("weight" if parts[2].startswith("conv") else "norm." + parts[3])


wanted = {detectron(k): v for k, v in encoder.items() if detectron(k)}
different = [
    name for name, array in wanted.items() if name in found and not (
        isinstance(found[name], numpy.ndarray) and found[name].dtype == array.dtype
        and found[name].shape == array.shape and found[name].tobytes() == array.tobytes()
        and found[name].flags["C_CONTIGUOUS"])
]
print(json.dumps({
    "compared": len(wanted), "different": different,
    "missing": sorted(set(wanted) - set(found)), "unexpected": sorted(set(found) - set(wanted)),
}))
