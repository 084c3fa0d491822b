"""Writes what the benchmarks `overload` and `hostile` send and to which model: checkpoints of a ResNet-18 and a ResNet-50 with
random weights, and small pictures of all kinds that are read.

Arguments: folder. Everything follows from one seed."""

import json
import os
import struct
import sys
import zlib

import numpy as np
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

folder = sys.argv[1]
torch.manual_seed(0)
for name in ("resnet18", "resnet50"):
    state = getattr(torchvision.models, name)().state_dict()
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, f"{folder}/{name}.safetensors")

random = np.random.default_rng(0)


def photo(width, height):
    coarse = random.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.BICUBIC)


for kind in ("small", "large", "hostile"):
    os.makedirs(f"{folder}/{kind}")
for i in range(48):
    width, height = (int(side) for side in random.integers(80, 200, 2))
    image = photo(width, height)
    kind, options = [
        ("jpg", {"quality": 85}), ("jpg", {"quality": 90, "progressive": True}), ("png", {}),
        ("webp", {"quality": 80}), ("webp", {"lossless": True}), ("jpg", {"quality": 60, "subsampling": 0}),
    ][i % 6]
    image = [image, image.convert("L"), image, image.convert("RGBA")][i % 4] if kind == "png" else image
    image.save(f"{folder}/small/{i:02}.{kind}", **options)
for i in range(32):
    photo(600, 400).save(f"{folder}/large/{i:02}.jpg", quality=88)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, rows):
    """Grey, eight bits; all pixels black. `rows` of them are really there."""
    row = b"\0" * (width + 1)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def scans(side, count):
    """A progressive JPEG of `side` pixels whose `count` scans say, in a few bytes each, that nothing comes."""
    segment = lambda marker, data: struct.pack(">HH", 0xFF00 | marker, len(data) + 2) + data
    table = lambda ident, symbols: segment(0xC4, bytes([ident, len(symbols)] + [0] * 15) + bytes(symbols))
    head = b"\xff\xd8" + segment(0xDB, bytes([0]) + bytes([1] * 64))
    head += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0]))
    blocks = (side // 8) ** 2
    # DC: a code of one bit for "no difference", a bit for every block
    bits = lambda count: b"\0" * -(-count // 8)
    head += table(0x00, [0]) + segment(0xDA, bytes([1, 1, 0x00, 0, 0, 0])) + bits(blocks)
    # AC: runs of blocks at their end, the longest of 2^14 + 2^14 - 1 blocks: one bit of code, fourteen of length
    runs = -(-blocks // 32767)
    value = int("0" + "1" * 14, 2)
    packed = 0
    for _ in range(runs):
        packed = packed << 15 | value
    length = -(-15 * runs // 8)
    data = (packed << (8 * length - 15 * runs)).to_bytes(length, "big").replace(b"\xff", b"\xff\0")
    head += table(0x10, [0xE0])
    scan = segment(0xDA, bytes([1, 1, 0x00, 1, 63, 0])) + data
    return head + scan * count + b"\xff\xd9"


hostile = {
    "header-of-60000x60000.png": png(60000, 60000, 1),
    "just-over.png": png(7072, 7072, 7072),
    "just-under.png": png(7071, 7071, 7071),
    "rows-missing.png": png(7071, 7071, 100),
    "thousands-of-scans.jpg": scans(2048, 4000),
    "scans-allowed.jpg": scans(7064, 98),
}
for name, data in hostile.items():
    with open(f"{folder}/hostile/{name}", "wb") as file:
        file.write(data)
print(json.dumps({name: len(data) for name, data in hostile.items()}))
