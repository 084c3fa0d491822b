"""Small vision transformers with random weights, and what timm and transformers compute with them.

    pip install torch timm transformers && python make.py

Made with torch 2.11, timm 1.0.31 and transformers 5.24. Each NAME.safetensors (or NAME/model.safetensors, with its
config.json) holds weights under the names of a project, NAME.answers.safetensors:

- `images`: normalised pictures at the size that the positions are for; `images.SIDE`: at others
- `tokens`, `tokens.SIDE`: the normalised tokens in evaluation mode; `attention`: of the last block, by head
- `towards`, `grad.PARAMETER`: gradients of the sum of the class token times `towards`, under timm's names
- `dropped`: the class token in training mode, drop path 0.5, with the seed 7
"""

import json
from pathlib import Path

import timm.layers
import torch
import transformers
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

HERE = Path(__file__).parent
WIDTH, DEPTH, HEADS, PATCH, SIDE = 16, 2, 2, 4, 16
OTHER_SIDES = 24, 12


@torch.no_grad()
def randomise(model):
    """Nothing is one or zero, so that no term of the formula is hidden."""
    for name, p in model.named_parameters():
        if "norm" in name and name.endswith("weight") or "gamma" in name or "lambda" in name:
            p.uniform_(0.5, 1.5)
        elif p.dim() > 1:
            p.normal_(0, 0.3)
        else:
            p.uniform_(-0.3, 0.3)


def save(name, tensors):
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, HERE / f"{name}.safetensors")


def attention_of(model, images):
    """Of the last block, computed once more from what goes into it."""
    seen = {}
    attn = model.blocks[-1].attn
    handle = attn.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    tokens = model.forward_features(images)
    handle.remove()
    n, t, _ = seen["x"].shape
    q, k, _ = attn.qkv(seen["x"]).reshape(n, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    return tokens, (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)


def timms(name, **settings):
    kwargs = dict(img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, num_classes=0, dynamic_img_size=True)
    model = VisionTransformer(**kwargs, **settings)
    randomise(model)
    images = torch.randn(2, 3, SIDE, SIDE)
    model.eval()
    save(name, model.state_dict())
    answers = {"images": images}
    with torch.no_grad():
        answers["tokens"], answers["attention"] = attention_of(model, images)
        for side in OTHER_SIDES:
            answers[f"images.{side}"] = torch.randn(2, 3, side, side)
            answers[f"tokens.{side}"] = model.forward_features(answers[f"images.{side}"])
    answers["towards"] = torch.randn(2, WIDTH)
    (model.forward_features(images)[:, 0] * answers["towards"]).sum().backward()
    answers |= {f"grad.{k}": p.grad for k, p in model.named_parameters()}
    dropping = VisionTransformer(**kwargs, drop_path_rate=0.5, **settings)
    dropping.load_state_dict(model.state_dict())
    dropping.train()
    torch.manual_seed(7)
    with torch.no_grad():
        answers["dropped"] = dropping.forward_features(images)[:, 0]
    save(f"{name}.answers", answers)


def theirs(name, config, model):
    settings = dict(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIDE, patch_size=PATCH)
    model = model(config(**settings)).eval()
    randomise(model)
    model.save_pretrained(HERE / name)
    (HERE / name / "README.md").unlink(missing_ok=True)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        tokens = model(pixel_values=images).last_hidden_state
    save(f"{name}.answers", {"images": images, "tokens": tokens})
    return model, images, tokens


def hub(model, images, tokens):
    """The same network under the names of DINOv2's hub, in a checkpoint of its training."""
    state = model.state_dict()
    take = lambda name: state[name]  # noqa: E731
    out = {
        "cls_token": take("embeddings.cls_token"),
        "pos_embed": take("embeddings.position_embeddings"),
        "register_tokens": take("embeddings.register_tokens"),
        "mask_token": take("embeddings.mask_token"),
        "patch_embed.proj.weight": take("embeddings.patch_embeddings.projection.weight"),
        "patch_embed.proj.bias": take("embeddings.patch_embeddings.projection.bias"),
        "norm.weight": take("layernorm.weight"),
        "norm.bias": take("layernorm.bias"),
    }
    for i in range(DEPTH):
        below = f"encoder.layer.{i}."
        for leaf in ("weight", "bias"):
            parts = [take(f"{below}attention.{x}_proj.{leaf}") for x in "qkv"]
            out[f"blocks.{i}.attn.qkv.{leaf}"] = torch.cat(parts)
            out[f"blocks.{i}.attn.proj.{leaf}"] = take(f"{below}attention.o_proj.{leaf}")
            for module in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                out[f"blocks.{i}.{module}.{leaf}"] = take(f"{below}{module}.{leaf}")
        for j in (1, 2):
            out[f"blocks.{i}.ls{j}.gamma"] = take(f"{below}layer_scale{j}.lambda1")
    save("dinov2_hub", {f"teacher.backbone.{k}": v for k, v in out.items()} | {"teacher.dino_head.mlp.0.weight": torch.zeros(2)})
    save("dinov2_hub.answers", {"images": images, "tokens": tokens})


if __name__ == "__main__":
    torch.manual_seed(0)
    timms("timm")
    timms(
        "timm_dinov2",
        reg_tokens=3,
        no_embed_class=True,
        init_values=1e-5,
        mlp_ratio=6,  # two thirds of 4 times the width in whole eights, twice
        mlp_layer=timm.layers.SwiGLUPacked,
        act_layer=torch.nn.SiLU,
    )
    theirs("transformers_vit", lambda **k: transformers.ViTConfig(intermediate_size=4 * WIDTH, **k), transformers.ViTModel)
    theirs("transformers_dinov2", lambda **k: transformers.Dinov2Config(use_swiglu_ffn=True, **k), transformers.Dinov2Model)
    hub(*theirs("transformers_registers", transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel))
    for path in HERE.glob("*/config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True) + "\n")
