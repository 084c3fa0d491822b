"""Puts together what is too large for one part of the kit: pieces `NAME.xz.00`, `NAME.xz.01`, .. become `NAME`."""

import glob
import hashlib
import lzma
import os

from runner import HOME, read


def join():
    """Joins what `NAME.pieces.json` lists, where every piece is here; what is not whole yet is named and left for a later call."""
    for manifest in sorted(glob.glob(os.path.join(HOME, "*", "*.pieces.json"))):
        path = manifest.removesuffix(".pieces.json")
        listed = read(manifest)
        if listed is None or os.path.exists(path):
            continue
        missing = [name for name in listed["pieces"] if not os.path.exists(os.path.join(os.path.dirname(path), name))]
        if missing:
            print(f"`{os.path.basename(path)}` is not whole: {', '.join(missing)} not here; hint: unpack every part of the kit")
            continue
        one(path, listed)


def one(path, listed):
    decoder, digest = lzma.LZMADecompressor(), hashlib.sha256()
    pieces = [os.path.join(os.path.dirname(path), name) for name in listed["pieces"]]
    with open(path + ".part", "wb") as out:
        for piece in pieces:
            with open(piece, "rb") as file:
                while block := file.read(1 << 20):
                    data = decoder.decompress(block)
                    digest.update(data)
                    out.write(data)
    if digest.hexdigest() != listed["sha256"]:
        os.remove(path + ".part")
        print(f"error: `{path}` is broken: another checksum than was packed; hint: copy the parts of the kit again")
        return
    os.replace(path + ".part", path)
    for piece in pieces:
        os.remove(piece)
