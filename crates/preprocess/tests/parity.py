"""Writes pictures in every variant that is read, and what Pillow and torchvision make of them.

usage: parity.py OUT_FOLDER

One JSON line on stdout per case: {"kind", "file", "expect", ...}; `expect` names a raw file of
uint8 (H, W, 3) pixels or float32 (3, H, W) planes.
"""

import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as F

OUT = Path(sys.argv[1])
HOWS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def photo(width, height, seed):
    """Smooth colours, edges and texture: what a JPEG encoder meets."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = [127 + 90 * np.sin(x / 37 + c) * np.cos(y / (29 + 3 * c)) for c in range(3)]
    image = np.stack(base, -1)
    for _ in range(12):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.03, 0.2) * height
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return Image.fromarray(np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8))


def png16(path, samples):
    """A 16-bit PNG, (H, W, channels) big-endian; Pillow does not write colour ones."""
    height, width, channels = samples.shape
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, kinds[channels], 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def on_white(image):
    """The contract in Pillow: upright, alpha over white, RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def emit(kind, file, array, **extra):
    name = f"{kind}-{len(list(OUT.glob('*.raw')))}.raw"
    np.ascontiguousarray(array).tofile(OUT / name)
    print(json.dumps({"kind": kind, "file": file, "expect": name, **extra}))


def decode_case(name, notes, expect=None):
    pixels = np.asarray(on_white(Image.open(OUT / name)) if expect is None else expect)
    emit("decode", name, pixels, width=pixels.shape[1], height=pixels.shape[0], notes=notes)


def jpegs():
    image = photo(301, 223, 1)
    for sampling, name in enumerate(["444", "422", "420"]):
        for quality in (60, 95):
            for progressive in (False, True):
                file = f"s{name}-q{quality}-{'p' if progressive else 'b'}.jpg"
                image.save(OUT / file, quality=quality, subsampling=sampling, progressive=progressive)
                decode_case(file, [])
    image.save(OUT / "profile.jpg", quality=90, icc_profile=b"not looked into" * 9)
    decode_case("profile.jpg", ["IccIgnored"])
    image.convert("L").save(OUT / "grey.jpg", quality=90)
    decode_case("grey.jpg", ["Grey"])
    image.convert("CMYK").save(OUT / "cmyk.jpg", quality=95)
    decode_case("cmyk.jpg", ["Cmyk"])
    # The same without the Adobe segment, which Pillow reads no differently.
    data = (OUT / "cmyk.jpg").read_bytes()
    at = data.find(b"\xff\xee")
    length = struct.unpack(">H", data[at + 2 : at + 4])[0]
    (OUT / "cmyk-plain.jpg").write_bytes(data[:at] + data[at + 2 + length :])
    decode_case("cmyk-plain.jpg", ["Cmyk"])
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(OUT / f"exif{orientation}.jpg", quality=90, exif=exif)
        decode_case(f"exif{orientation}.jpg", ["ExifRotated"] if orientation > 1 else [])
    for width, height in [(1, 1), (2, 3), (7, 13), (15, 16), (17, 31), (33, 9), (640, 5)]:
        file = f"size{width}x{height}.jpg"
        photo(width, height, width).save(OUT / file, quality=92)
        decode_case(file, [])


def rasters():
    image = photo(97, 61, 2)
    alpha = Image.fromarray((np.add.outer(np.arange(61), np.arange(97)) * 2 % 256).astype(np.uint8))
    rgba = image.copy()
    rgba.putalpha(alpha)
    grey_alpha = Image.merge("LA", [image.convert("L"), alpha])
    palette = image.quantize(17)
    transparent = image.quantize(17)
    transparent.info["transparency"] = 3
    pngs = {
        "rgb.png": (image, []),
        "rgba.png": (rgba, ["AlphaOnWhite"]),
        "la.png": (grey_alpha, ["Grey", "AlphaOnWhite"]),
        "l.png": (image.convert("L"), ["Grey"]),
        "bits.png": (image.convert("1"), ["Grey"]),
        "palette.png": (palette, []),
        "trns.png": (transparent, ["AlphaOnWhite"]),
    }
    for name, (picture, notes) in pngs.items():
        picture.save(OUT / name)
        decode_case(name, notes)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(OUT / "exif.png", exif=exif)
    decode_case("exif.png", ["ExifRotated"])
    image.save(OUT / "apng.png", save_all=True, append_images=[photo(97, 61, 3)])
    decode_case("apng.png", ["Animated"])
    deep = np.asarray(image).astype(np.uint16) * 256 + 113
    png16(OUT / "deep.png", deep)
    decode_case("deep.png", ["SixteenBit"], np.asarray(image))
    png16(OUT / "deep-grey.png", deep[:, :, :1])
    decode_case("deep-grey.png", ["SixteenBit", "Grey"], np.repeat(np.asarray(image)[:, :, :1], 3, 2))
    webps = {
        "lossy.webp": (image, {"quality": 90}, []),
        "lossless.webp": (image, {"lossless": True}, []),
        "alpha.webp": (rgba, {"lossless": True, "exact": True}, ["AlphaOnWhite"]),
        "exif.webp": (image, {"quality": 90, "exif": exif}, ["ExifRotated"]),
        "moving.webp": (image, {"lossless": True, "save_all": True, "append_images": [photo(97, 61, 3)]}, ["Animated"]),
    }
    for name, (picture, options, notes) in webps.items():
        picture.save(OUT / name, **options)
        decode_case(name, notes)


def others():
    """Formats that are read besides."""
    image = photo(97, 61, 4)
    alpha = Image.fromarray((np.add.outer(np.arange(61), np.arange(97)) * 2 % 256).astype(np.uint8))
    rgba = image.copy()
    rgba.putalpha(alpha)
    palette = image.quantize(17)
    transparent = image.quantize(17)
    transparent.info["transparency"] = 3
    more = {"save_all": True, "append_images": [photo(97, 61, 5)]}
    cases = {
        "rgb.bmp": (image, {}, []),
        "l.bmp": (image.convert("L"), {}, []),
        "palette.bmp": (palette, {}, []),
        "bits.bmp": (image.convert("1"), {}, []),
        "rgb.dib": (image, {}, None),
        "palette.gif": (palette, {}, []),
        "plain.gif": (palette, {"interlace": 0}, []),
        "trns.gif": (transparent, {"transparency": 3}, ["AlphaOnWhite"]),
        "grey.gif": (image.convert("L"), {}, []),
        "moving.gif": (palette, {**more, "loop": 0}, ["Animated"]),
        "rgb.tif": (image, {}, []),
        "rgba.tif": (rgba, {}, ["AlphaOnWhite"]),
        "l.tif": (image.convert("L"), {}, ["Grey"]),
        "lzw.tif": (image, {"compression": "tiff_lzw"}, []),
        "deflate.tif": (image, {"compression": "tiff_adobe_deflate"}, []),
        "packbits.tif": (image, {"compression": "packbits"}, []),
        "cmyk.tif": (image.convert("CMYK"), {}, None),
        "palette.tif": (palette, {}, None),
        "pages.tif": (image, more, []),
    }
    for name, (picture, options, notes) in cases.items():
        if notes is None:
            continue
        picture.save(OUT / name, **options)
        decode_case(name, notes)


def resizes():
    for index, (w, h) in enumerate([(301, 223), (97, 161), (40, 30), (3, 5), (512, 31), (1000, 750), (31, 901)]):
        image = photo(w, h, 10 + index)
        file = f"source{index}.png"
        image.save(OUT / file)
        for how, mode in HOWS.items():
            for width, height in [(64, 64), (224, 149), (300, 223), (33, 400), (1, 1), (w, 50), (50, h), (w, h)]:
                out = F.resize(image, [height, width], mode, antialias=True)
                emit("resize", file, out, how=how, width=width, height=height)
            for box in [(0, 0, w, h), (1, 2, w - 2, h - 3), (w // 3, h // 4, max(1, w // 2), max(1, h // 2))]:
                out = F.resized_crop(image, box[1], box[0], box[3], box[2], [48, 56], mode, antialias=True)
                emit("resized_crop", file, out, how=how, width=56, height=48, box=box)


def contracts():
    sizes = [(301, 223), (223, 301), (64, 64), (500, 333), (91, 640), (30, 20), (64, 65), (65, 64), (1, 9)]
    for index, (w, h) in enumerate(sizes):
        image = photo(w, h, 20 + index)
        file = f"contract{index}.png"
        image.save(OUT / file)
        for resize, crop, how, kernel, sigma in [
            (256, 224, "bilinear", 0, 0),
            (73, 64, "bicubic", 0, 0),
            (64, 64, "bilinear", 11, 5.0),
            (71, 52, "bilinear", 5, 0.7),
        ]:
            pixels = F.center_crop(F.resize(image, resize, HOWS[how], antialias=True), [crop, crop])
            mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
            exact = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
            tensor = exact(pixels)
            if kernel:
                tensor = tensor - F.gaussian_blur(tensor, [kernel, kernel], [sigma, sigma])
            emit("pixels", file, pixels, resize=resize, crop=crop, how=how, kernel=kernel, sigma=sigma)
            # The tensor of exactly these pixels, so that the difference is the arithmetic's alone.
            pixels.save(OUT / f"crop-{index}-{resize}.png")
            emit("tensor", f"crop-{index}-{resize}.png", tensor.numpy(), resize=resize, crop=crop, how=how, kernel=kernel, sigma=sigma)


if __name__ == "__main__":
    jpegs()
    rasters()
    others()
    resizes()
    contracts()
