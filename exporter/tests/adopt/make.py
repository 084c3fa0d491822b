"""Small image encoders with random weights as other projects export them, and what those projects answer for pictures.

    pip install torch torchvision timm transformers onnx && python make.py

Made with torch 2.11, timm 1.0.31 and transformers 5.24. Each folder has a model in ONNX (opset 17) beside the file that says
how its pictures are prepared; `answers.json` has the embedding of each of `photos`, prepared by the project's own
processor and computed in PyTorch: `NAME/OUTPUT` or `NAME/OUTPUT/POOL`.

- `clip`: transformers' layout, `pixel_values` -> `image_embeds`, `last_hidden_state`; short side 37, centre 32
- `dinov2`: `last_hidden_state`, `pooler_output`, in a folder `onnx` below the processor, weights in `model.onnx_data`
- `siglip`: the same outputs; pictures are squashed
- `timm`: a ResNet, `input` -> `output`, of one picture alone
"""

import json
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform

HERE = Path(__file__).parent
SIDE, PATCH, WIDTH = 32, 8, 16
SIZES = {"wide.png": (97, 61), "tall.png": (53, 80), "long.jpg": (150, 40)}
COMMON = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": SIDE, "patch_size": PATCH}  # fmt: skip


def photos():
    """Gradients, edges and noise: nothing is symmetric, so that a crop beside the right one is another picture. Two of them
    are the same pixels to every reader."""
    rng = np.random.default_rng(5)
    folder = HERE / "photos"
    folder.mkdir(exist_ok=True)
    for name, (width, height) in SIZES.items():
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x / a + y / b) for a, b in [(7, 11), (5, -9), (13, 4)]]
        picture = np.stack([127 + 90 * w for w in waves], axis=2) + rng.normal(0, 12, (height, width, 3))
        picture[(x > width // 3) & (y < height // 2)] += 40
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name, quality=92)
    return {name: Image.open(folder / name).convert("RGB") for name in SIZES}


@torch.no_grad()
def randomised(model):
    """Nothing is one or zero, and embeddings of two pictures are far apart."""
    for name, p in model.named_parameters():
        if p.dim() > 1:
            p.normal_(0, 1 / p[0].numel() ** 0.5)
        elif name.endswith("weight"):
            p.uniform_(0.5, 1.5)
        else:
            p.uniform_(-0.3, 0.3)
    return model.eval()


class Named(torch.nn.Module):
    """A model of transformers with some of its outputs."""

    def __init__(self, model, outputs):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, pixel_values):
        found = self.model(pixel_values)
        return tuple(getattr(found, name) for name in self.outputs)


def export(model, path, inputs, outputs, free=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: {0: "batch_size"} for name in inputs + outputs} if free else None
    example = torch.zeros(2 if free else 1, 3, SIDE, SIDE)
    torch.onnx.export(model, (example,), path, input_names=inputs, output_names=outputs, dynamic_axes=axes,
                      opset_version=17, dynamo=False)  # fmt: skip


def of_transformers(name, model, outputs, processor, pictures, below="."):
    model = Named(randomised(model), outputs).eval()
    export(model, HERE / name / below / "model.onnx", ["pixel_values"], outputs)
    (HERE / name / "preprocessor_config.json").write_text(processor.to_json_string())
    prepared = {key: processor(picture, return_tensors="pt")["pixel_values"] for key, picture in pictures.items()}
    answers = {}
    with torch.no_grad():
        for key, pixels in prepared.items():
            for output, value in zip(outputs, model(pixels)):
                pools = {"": value} if value.dim() == 2 else {"/cls": value[:, 0], "/mean": value[:, 1:].mean(1)}
                for pool, vector in pools.items():
                    answers.setdefault(f"{name}/{output}{pool}", {})[key] = vector[0].tolist()
    return answers


def of_timm(pictures):
    model = randomised(timm.create_model("resnet18", num_classes=0, block=timm.models.resnet.BasicBlock,
                                         layers=[1, 1, 1, 1], channels=[8, 8, 8, 16], stem_width=4))  # fmt: skip
    export(model, HERE / "timm" / "model.onnx", ["input"], ["output"], free=False)
    cfg = {"input_size": [3, SIDE, SIDE], "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center",
           "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # fmt: skip
    (HERE / "timm" / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": cfg}))
    transform = create_transform((3, SIDE, SIDE), interpolation="bicubic", mean=cfg["mean"], std=cfg["std"],
                                 crop_pct=cfg["crop_pct"], crop_mode="center")  # fmt: skip
    with torch.no_grad():
        return {"timm/output": {key: model(transform(p)[None])[0].tolist() for key, p in pictures.items()}}


def main():
    torch.manual_seed(0)
    pictures = photos()
    statistics = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    clip = transformers.CLIPVisionConfig(**COMMON, projection_dim=12, attn_implementation="eager")
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 37}, crop_size=SIDE, **statistics)
    answers = of_transformers("clip", transformers.CLIPVisionModelWithProjection(clip),
                              ["image_embeds", "last_hidden_state"], processor, pictures)  # fmt: skip
    dinov2 = transformers.Dinov2Config(**{**COMMON, "mlp_ratio": 2}, attn_implementation="eager")
    processor = transformers.BitImageProcessor(size={"shortest_edge": 40}, crop_size=SIDE, **statistics)
    outputs = ["last_hidden_state", "pooler_output"]
    answers |= of_transformers("dinov2", transformers.Dinov2Model(dinov2), outputs, processor, pictures, "onnx")
    path = HERE / "dinov2" / "onnx" / "model.onnx"
    data = path.with_name("model.onnx_data")
    data.unlink(missing_ok=True)  # it would grow
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=data.name, size_threshold=256)
    siglip = transformers.SiglipVisionConfig(**COMMON, attn_implementation="eager")
    processor = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, **statistics)
    answers |= of_transformers("siglip", transformers.SiglipVisionModel(siglip), outputs, processor, pictures)
    answers |= of_timm(pictures)
    rounded = {key: {p: [round(v, 6) for v in vector] for p, vector in of.items()} for key, of in answers.items()}
    (HERE / "answers.json").write_text(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    main()
