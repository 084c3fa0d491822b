"""The peer of the benchmark `loader`: two augmented views of a picture as one writes them with Pillow and torchvision, in
one process without threads.

Arguments: a folder, which is filled with generated photos; or a folder of photos and the word `measure`.
Prints samples a second of processor time (a sample is a picture with both of its views): of decoding alone, of decoding and two random crops,
and of everything up to the normalised tensors; the latter two with transforms on Pillow's pictures and on tensors."""

import glob
import json
import os
import random
import sys
import time

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2

SIZE, SECONDS = 224, 4
folder = sys.argv[1]


def make():
    os.makedirs(folder)
    generator = np.random.default_rng(0)
    for i in range(200):
        # coarse shapes, finer ones and a little noise: files of the size that a camera's photos have
        photo = np.zeros((600, 400, 3))
        for cells, weight in ((6, 0.55), (40, 0.3), (200, 0.15)):
            layer = generator.integers(0, 256, (cells * 3 // 2, cells, 3), dtype=np.uint8)
            photo += weight * np.asarray(Image.fromarray(layer).resize((400, 600), Image.BICUBIC), float)
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(f"{folder}/{i:03}.jpg", quality=85)


def decode(path):
    return Image.open(path).convert("RGB")


def cut(to_tensor_first):
    crop = v2.RandomResizedCrop(SIZE, (0.2, 1.0), antialias=True)
    return v2.Compose([v2.PILToTensor(), crop] if to_tensor_first else [crop, v2.PILToTensor()])


def pillow_blur(image):
    """The blur of MoCo's published code, which is Pillow's: boxes in place of a Gaussian, and much faster."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def everything(to_tensor_first):
    blur = v2.GaussianBlur(13, (0.1, 2.0)) if to_tensor_first else v2.Lambda(pillow_blur)
    steps = [
        v2.RandomResizedCrop(SIZE, (0.2, 1.0), antialias=True),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2),
        v2.RandomApply([blur], 0.5), v2.RandomHorizontalFlip(),
    ]
    steps.insert(0 if to_tensor_first else len(steps), v2.ToImage())
    normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), normalize])


def rate(work):
    """Samples a second of processor time of `work`, called on path after path."""
    work(files[0])
    began, done = time.process_time(), 0
    while time.process_time() - began < SECONDS:
        work(files[done % len(files)])
        done += 1
    return done / (time.process_time() - began)


def views(transform):
    def work(path):
        image = decode(path)
        return transform(image), transform(image)
    return work


if len(sys.argv) == 2:
    make()
    print(json.dumps({"photos": 200}))
    sys.exit()
torch.set_num_threads(1)
torch.manual_seed(0)
files = sorted(glob.glob(f"{folder}/**/*.jp*g", recursive=True))
print(json.dumps({
    "decode": rate(lambda path: decode(path)),
    "cut_pillow": rate(views(cut(False))), "cut_tensor": rate(views(cut(True))),
    "all_pillow": rate(views(everything(False))), "all_tensor": rate(views(everything(True))),
}))
