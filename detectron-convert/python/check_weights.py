"""Loads a pickle with Detectron2's own checkpointer and compares every tensor; `occlude-detectron verify` runs it.

Arguments: settings (YAML), pickle. The last line of stdout is one JSON object. The pickle is executed by Detectron2, so
that the caller looks at it first.
"""

import json
import logging
import pickle
import sys


def unavailable(reason):
    print(json.dumps({"unavailable": str(reason)}))
    sys.exit()


try:
    import detectron2
    import torch
    import train_detector
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
except ImportError as error:
    unavailable(error)

# Where a detector keeps an encoder whose own names begin with `stem.` or `res`.
PREFIXES = ("backbone.bottom_up.", "backbone.", "roi_heads.")


def bare(key):
    prefix = next((p for p in PREFIXES if key.startswith(p)), "")
    return key[len(prefix):]


def same(tensor, array):
    other = torch.as_tensor(array)
    return tensor.shape == other.shape and tensor.dtype == other.dtype and torch.equal(tensor, other)


def compare(config, weights):
    cfg = get_cfg()
    cfg.merge_from_file(config)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    model = build_model(cfg)
    DetectionCheckpointer(model).load(weights)
    with open(weights, "rb") as file:
        arrays = pickle.load(file, encoding="latin1")["model"]
    state = model.state_dict()
    encoder = {bare(key): state[key] for key in state if train_detector.ENCODER.match(key)}
    wanted = {bare(key) for key in train_detector.encoder_keys(model)}
    matched = [name for name in encoder if name in arrays and same(encoder[name], arrays[name])]
    return {
        "detectron2": detectron2.__version__,
        "torch": torch.__version__,
        "matched": len(matched),
        "missing": sorted(wanted - set(arrays)),
        "different": sorted(name for name in encoder if name in arrays and name not in matched),
        "left_over": sorted(set(arrays) - set(encoder)),
        "doubtful_settings": train_detector.doubtful_settings(cfg),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    print(json.dumps(compare(*sys.argv[1:3])))
