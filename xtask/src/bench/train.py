"""The peer of the benchmark `train`: MoCo v2 as one writes it in PyTorch, pictures decoded by Pillow and augmented by
torchvision in two loader processes. Same encoder, batch, queue and augmentation as our run.

Arguments: folder of images, which is filled first; or the folder and the word `train`, which trains two epochs on it, with
`bf16` after it in bfloat16. Prints the second epoch's images/s."""

import copy
import glob
import json
import os
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import v2

BATCH, SIZE, QUEUE, DIM, MOMENTUM, TEMPERATURE = 128, 64, 4096, 128, 0.99, 0.2
folder = sys.argv[1]
HALF = "bf16" in sys.argv[2:]


def make():
    os.makedirs(folder)
    random = np.random.default_rng(0)
    for i in range(1024):
        coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((170, 128), Image.BICUBIC).save(f"{folder}/{i:04}.jpg", quality=90)


class Views(torch.utils.data.Dataset):
    def __init__(self):
        self.files = sorted(glob.glob(f"{folder}/*.jpg"))
        jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
        blur = v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5)
        self.view = v2.Compose([
            v2.RandomResizedCrop(SIZE, (0.2, 1.0), antialias=True), jitter, v2.RandomGrayscale(0.2), blur,
            v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = Image.open(self.files[index]).convert("RGB")
        return self.view(image), self.view(image)


def encoder():
    net = torchvision.models.resnet18()
    net.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, DIM))
    return net.to(memory_format=torch.channels_last)


def train():
    query = encoder()
    key = copy.deepcopy(query).requires_grad_(False)
    queue, at = F.normalize(torch.randn(DIM, QUEUE), dim=0), 0
    optimizer = torch.optim.SGD(query.parameters(), lr=0.06, momentum=0.9, weight_decay=1e-4)
    loader = torch.utils.data.DataLoader(Views(), BATCH, shuffle=True, drop_last=True, num_workers=2)
    for _ in range(2):
        began, seen = time.perf_counter(), 0
        for a, b in loader:
            a, b = (x.contiguous(memory_format=torch.channels_last) for x in (a, b))
            with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
                q = query(a)
                with torch.no_grad():
                    k = key(b)
            q, k = F.normalize(q.float(), dim=1), F.normalize(k.float(), dim=1)
            logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.clone()], 1) / TEMPERATURE
            loss = F.cross_entropy(logits, torch.zeros(len(a), dtype=torch.long))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for mine, theirs in zip(key.parameters(), query.parameters()):
                    mine.lerp_(theirs, 1 - MOMENTUM)
                queue[:, at:at + BATCH] = k.T
            at = (at + BATCH) % QUEUE
            seen += len(a)
        rate = seen / (time.perf_counter() - began)
    return rate


if len(sys.argv) > 2:
    print(json.dumps({"images_per_s": train()}))
else:
    make()
    print(json.dumps({"images": 1024}))
