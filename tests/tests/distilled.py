"""Rewrites an ONNX file as somebody else's: `plain` takes its metadata away, `nameless` its output `embedding`, too."""

import json
import sys

import onnx

source, plain, nameless = sys.argv[1:4]
model = onnx.load(source)
del model.metadata_props[:]
onnx.save(model, plain)
for node in model.graph.node:
    node.output[:] = ["vector" if name == "embedding" else name for name in node.output]
    node.input[:] = ["vector" if name == "embedding" else name for name in node.input]
for output in model.graph.output:
    output.name = "vector" if output.name == "embedding" else output.name
onnx.save(model, nameless)
print(json.dumps([output.name for output in model.graph.output]))
