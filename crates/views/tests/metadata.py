"""Writes pictures with every kind of metadata that changes how pixels are read, and what Pillow makes of them.

usage: metadata.py OUT_FOLDER

One JSON line on stdout per case: {"file", "expect", "width", "height", "exact"}; `expect` names a raw file of uint8
(H, W, 3) pixels. What Pillow itself refuses is no case.
"""

import io
import json
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

OUT = Path(sys.argv[1])
warnings.simplefilter("ignore")
JFIF = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


def picture(width=48, height=34):
    """Smooth, and different in every corner and colour."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [40 + 160 * x / width, 30 + 180 * y / height, 200 - 150 * (x + y) / (width + height)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def emit(name, data, exact=False):
    path = OUT / name
    path.write_bytes(data)
    try:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    except Exception as error:
        print(f"no case: {name}: {error}", file=sys.stderr)
        return
    pixels = np.asarray(image)
    pixels.tofile(OUT / f"{name}.raw")
    case = {"file": name, "expect": f"{name}.raw", "width": pixels.shape[1], "height": pixels.shape[0], "exact": exact}
    print(json.dumps(case))


def segments(jpeg):
    """(marker, body) up to the first scan, and the rest."""
    at, found = 2, []
    while jpeg[at + 1] != 0xDA:
        length = struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        found.append((jpeg[at + 1], jpeg[at + 4 : at + 2 + length]))
        at += 2 + length
    return found, jpeg[at:]


def build(found, rest):
    parts = [b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in found]
    return b"\xff\xd8" + b"".join(parts) + rest


def encode(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, **options)
    return out.getvalue()


def bare(jpeg):
    """Without any application segment."""
    found, rest = segments(jpeg)
    return [s for s in found if not 0xE0 <= s[0] <= 0xEF], rest


def renumbered(found, rest, ids):
    """With other ids of components, in the frame and in every scan."""
    old, out = None, []
    for marker, body in found:
        if marker in (0xC0, 0xC1, 0xC2):
            old = [body[6 + 3 * i] for i in range(body[5])]
            changed = bytearray(body)
            for i, id in enumerate(ids):
                changed[6 + 3 * i] = id
            body = bytes(changed)
        out.append((marker, body))
    data, at = bytearray(rest), 0
    while (at := data.find(b"\xff\xda", at)) >= 0:
        for i in range(data[at + 4]):
            place = at + 5 + 2 * i
            data[place] = ids[old.index(data[place])]
        at += 2
    return out, bytes(data)


def adobe(transform, length=12):
    return 0xEE, (b"Adobe\0\x64\0\0\0\0" + bytes([transform]) + b"more")[:length]


def colours():
    rgb = picture()
    jfif = (0xE0, JFIF[4:])
    heads = {"none": [], "jfif": [jfif], "short": [(0xE0, b"JFIF\0\x01\x01")], "other": [(0xEE, b"Other\0\0\0\0\0\0\0\0")]}
    for transform in (0, 1, 2, 3, 255):
        heads[f"adobe{transform}"] = [adobe(transform)]
        heads[f"jfif-adobe{transform}"] = [jfif, adobe(transform)]
        heads[f"adobe{transform}-jfif"] = [adobe(transform), jfif]
    heads["adobe-short"] = [adobe(0, 11)]
    heads["adobe-long"] = [adobe(0, 16)]
    heads["adobe-twice"] = [adobe(1), adobe(0)]
    ids = {"123": b"\1\2\3", "012": b"\0\1\2", "RGB": b"RGB", "rgb": b"rgb", "odd": b"\1\x22\x23"}
    kinds = {
        "base": encode(rgb, subsampling=2),
        "full": encode(rgb, subsampling=0),
        "prog": encode(rgb, subsampling=2, progressive=True),
    }
    for kind, jpeg in kinds.items():
        for head, extra in heads.items():
            for id, numbers in ids.items():
                if kind != "base" and id not in ("123", "RGB"):
                    continue
                found, rest = renumbered(*bare(jpeg), numbers)
                emit(f"{kind}-{head}-{id}.jpg", build(extra + found, rest))
    grey, cmyk = encode(rgb.convert("L")), encode(rgb.convert("CMYK"))
    for head, extra in heads.items():
        found, rest = bare(grey)
        emit(f"grey-{head}.jpg", build(extra + found, rest))
        for id, numbers in {"1234": b"\1\2\3\4", "CMYK": b"CMYK"}.items():
            found, rest = renumbered(*bare(cmyk), numbers)
            emit(f"cmyk-{head}-{id}.jpg", build(extra + found, rest))
    # the segment behind the frame, as some writers have it
    for name, jpeg in {"rgb": kinds["base"], "cmyk": cmyk, "grey": grey}.items():
        found, rest = bare(jpeg)
        emit(f"late-{name}.jpg", build(found + [adobe(0)], rest))


SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4}


def exif(orientation, endian="<", kind=3, count=1, before=0, gap=0, twice=None):
    """An EXIF block; `before` entries in front, `gap` bytes before the directory, `twice` another value behind."""
    order = "II" if endian == "<" else "MM"
    entries = [struct.pack(endian + "HHI4s", 0x010E + i, 2, 2, b"x\0") for i in range(before)]
    size = SIZES[kind]

    def entry(value):
        codes = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f"}
        data = struct.pack(endian + codes[kind], value) * count
        if len(data) <= 4:
            return struct.pack(endian + "HHI4s", 0x0112, kind, count, data), b""
        total = len(entries) + (2 if twice is not None else 1)
        offset = 8 + gap + 2 + 12 * total + 4
        return struct.pack(endian + "HHII", 0x0112, kind, count, offset), data

    first, behind = entry(orientation)
    entries.append(first)
    if twice is not None:
        entries.append(entry(twice)[0])
    head = order.encode() + struct.pack(endian + "HI", 42, 8 + gap) + b"\0" * gap
    return head + struct.pack(endian + "H", len(entries)) + b"".join(entries) + b"\0\0\0\0" + behind


def blocks():
    for endian in "<>":
        e = "le" if endian == "<" else "be"
        for orientation in range(0, 10):
            yield f"{e}-short-{orientation}", exif(orientation, endian)
        for kind in (1, 2, 4, 6, 7, 8, 9):
            yield f"{e}-type{kind}", exif(6, endian, kind)
        yield f"{e}-two", exif(6, endian, count=2)
        yield f"{e}-three", exif(6, endian, count=3)
        yield f"{e}-behind", exif(8, endian, before=9, gap=20)
        yield f"{e}-twice", exif(3, endian, twice=6)
        yield f"{e}-long", exif(5, endian, 4, before=2)
        yield f"{e}-negative", exif(-1, endian, 8)
    yield "empty", b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    yield "beyond", b"II*\0\xff\xff\0\0"
    yield "headed", b"Exif\0\0" + exif(6)


def xmp(orientation, element=False):
    inner = f"<tiff:Orientation>{orientation}</tiff:Orientation>" if element else ""
    attribute = "" if element else f' tiff:Orientation="{orientation}"'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description{attribute}>{inner}</rdf:Description></x:xmpmeta>'.encode()


XMP = b"http://ns.adobe.com/xap/1.0/\0"


def jpeg_orientations():
    for kind, jpeg in {"base": encode(picture()), "prog": encode(picture(), progressive=True)}.items():
        found, rest = segments(jpeg)
        for name, block in blocks():
            emit(f"{kind}-exif-{name}.jpg", build([(0xE1, b"Exif\0\0" + block)] + found, rest))
        block = exif(6)
        app = (0xE1, b"Exif\0\0" + block)
        other = [(0xE2, b"FPXR\0x"), (0xED, b"Photoshop 3.0\0"), (0xE1, XMP + xmp(1))]
        cases = {
            "behind": found[:1] + other + [app] + found[1:],
            "split": [(0xE1, b"Exif\0\0" + block[:15]), (0xE1, b"Exif\0\0" + block[15:])] + found,
            "second": [app, (0xE1, b"Exif\0\0" + exif(3))] + found,
            "xmp": [(0xE1, XMP + xmp(6))] + found,
            "xmp-element": [(0xE1, XMP + xmp(8, True))] + found,
            "xmp-and-exif": [(0xE1, XMP + xmp(6)), (0xE1, b"Exif\0\0" + exif(3))] + found,
            "xmp-and-plain": [(0xE1, XMP + xmp(6)), (0xE1, b"Exif\0\0" + exif(1))] + found,
            "xmp-twice": [(0xE1, XMP + xmp(6)), (0xE1, XMP + xmp(3))] + found,
            "late": found + [app],
        }
        for name, parts in cases.items():
            emit(f"{kind}-{name}.jpg", build(parts, rest))


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rasters():
    out = io.BytesIO()
    picture().save(out, "PNG")
    png = out.getvalue()
    end = png.rfind(b"IEND") - 4
    for name, block in blocks():
        emit(f"before-{name}.png", png[:33] + png_chunk(b"eXIf", block) + png[33:], True)
    emit("after.png", png[:end] + png_chunk(b"eXIf", exif(6)) + png[end:], True)
    text = b"XML:com.adobe.xmp\0\0\0\0\0"
    emit("xmp.png", png[:33] + png_chunk(b"iTXt", text + xmp(6)) + png[33:], True)
    emit("xmp-plain.png", png[:33] + png_chunk(b"eXIf", exif(1)) + png_chunk(b"iTXt", text + xmp(6)) + png[33:], True)
    for name, block in blocks():
        for headed in (False, True):
            out = io.BytesIO()
            picture().save(out, "WEBP", lossless=True, exif=(b"Exif\0\0" if headed else b"") + block)
            emit(f"{name}-{headed}.webp", out.getvalue(), True)
    out = io.BytesIO()
    picture().save(out, "WEBP", lossless=True, xmp=xmp(6))
    emit("xmp.webp", out.getvalue(), True)
    for endian in "<>":
        for orientation in range(1, 9):
            out = io.BytesIO()
            tags = Image.Exif()
            tags[0x0112] = orientation
            prefix = b"MM\0\x2a" if endian == ">" else b"II\x2a\0"
            picture().save(out, "TIFF", exif=tags, **({"big_endian": True} if endian == ">" else {}))
            if out.getvalue().startswith(prefix[:2]):
                emit(f"{orientation}-{'be' if endian == '>' else 'le'}.tif", out.getvalue(), True)


def containers():
    first, second = picture(), picture(24, 17)
    out = io.BytesIO()
    tags = Image.Exif()
    tags[0x0112] = 6
    first.save(out, "MPO", save_all=True, append_images=[second], quality=92, exif=tags)
    emit("mpo.jpg", out.getvalue())
    # a picture with a map of its highlights behind it
    found, rest = segments(encode(first))
    gain = XMP + b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description hdrgm:Version="1.0"/></x:xmpmeta>'
    emit("gain.jpg", build(found[:1] + [(0xE1, gain)] + found[1:], rest) + encode(second.convert("L")))
    emit("trailing.jpg", encode(first) + b"\0" * 100 + b"text")
    profile = bytes(range(256)) * 700
    for name, image in {"icc": first, "icc-cmyk": first.convert("CMYK"), "icc-grey": first.convert("L")}.items():
        emit(f"{name}.jpg", encode(image, icc_profile=profile))
    found, rest = segments(encode(first, icc_profile=profile))
    parts = [s for s in found if s[0] == 0xE2]
    others = [s for s in found if s[0] != 0xE2]
    emit("icc-order.jpg", build(parts[::-1] + others, rest))
    emit("icc-missing.jpg", build(parts[1:] + others, rest))
    emit("comment.jpg", build([(0xFE, b"\xff\xd9 no end")] + found, rest))


if __name__ == "__main__":
    colours()
    jpeg_orientations()
    rasters()
    containers()
