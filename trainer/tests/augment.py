"""torchvision's side of `augment.rs`. Arguments: task, JSON file with the question; prints JSON."""

import json
import sys

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

task, question = sys.argv[1], json.load(open(sys.argv[2]))
torch.manual_seed(0)


def colours():
    side, kernel = question["side"], 2 * question["reach"] + 1
    batch = torch.tensor(question["pixels"], dtype=torch.uint8).view(-1, 3, side, side)
    views = []
    for image, case in zip(batch, question["cases"]):
        x = F.to_dtype(image, torch.float32, scale=True)
        if case["jittered"]:
            steps = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
            for op in case["order"]:
                x = steps[op](x, case["jitter"][op])
        if case["gray"]:
            x = F.rgb_to_grayscale(x, 3)
        if case["blur"] > 0:
            x = F.gaussian_blur(x, [kernel, kernel], [case["blur"], case["blur"]])
        if case["solarize"]:
            x = F.solarize(x, 128 / 255)
        views.append(F.normalize(x, question["mean"], question["std"]))
    views = torch.stack(views)
    high_pass = views - F.gaussian_blur(views, [11, 11], [5.0, 5.0])
    return {"views": views.flatten().tolist(), "high_pass": high_pass.flatten().tolist()}


def crops():
    data = np.array(question["pixels"], dtype=np.uint8).reshape(question["height"], question["width"], 3)
    image, side = Image.fromarray(data), question["side"]
    out = []
    for left, top, width, height in question["boxes"]:
        view = F.resized_crop(image, int(top), int(left), int(height), int(width), [side, side], antialias=True)
        out.extend(np.asarray(view).flatten().tolist())
    return {"crops": out}


def draws():
    image = torch.zeros(3, question["height"], question["width"], dtype=torch.uint8)
    crop = v2.RandomResizedCrop(224, question["crop"])
    jitter = v2.ColorJitter(*question["jitter"])
    blur = v2.GaussianBlur(23, question["sigma"])
    out = {k: [] for k in ["area", "ratio", "left", "top", "brightness", "contrast", "saturation", "hue", "sigma"]}
    for _ in range(question["n"]):
        p = crop.make_params([image])
        out["area"].append(p["width"] * p["height"])
        out["ratio"].append(p["width"] / p["height"])
        out["left"].append(p["left"])
        out["top"].append(p["top"])
        p = jitter.make_params([image])
        for name in ["brightness", "contrast", "saturation", "hue"]:
            out[name].append(float(p[f"{name}_factor"]))
        out["sigma"].append(float(blur.make_params([image])["sigma"][0]))
    return out


print(json.dumps({"colours": colours, "crops": crops, "draws": draws}[task]()))
