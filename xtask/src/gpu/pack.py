"""Archives of a folder, none larger than a limit, each of which unpacks by itself into the same folder.

Arguments: the folder, where the archives go, a scratch folder, the limit in bytes. Files come in order of worth, so that the first
archive has all that training needs. A file that may not fit into one is packed and cut into pieces, with a manifest (`kit/unpack.py`
joins them). Prints a row for each archive."""

import hashlib
import json
import lzma
import os
import sys
import tarfile

folder, out, scratch, limit = sys.argv[1:]
limit = int(limit)
# What an archive and its checksums take beside the files, and what an estimate may be wrong by.
ROOM = limit * 94 // 100
PIECE = limit * 45 // 100
PACKED = (".jpg", ".jpeg", ".png", ".whl", ".xz")
# Programs and photos make a kit that trains; then data, models, libraries.
ORDER = ["run.sh", "README", "kit/", "bin/", "occlude-", "data/photos/", "tests/", "data/", "models/", "lib/"]


def rank(name):
    return next((i for i, start in enumerate(ORDER) if name.startswith(start)), len(ORDER))


def estimate(path):
    """Bytes in an archive: what the fastest packing makes of it, and its header."""
    size = os.path.getsize(path)
    if path.endswith(PACKED) or ".xz." in os.path.basename(path):
        return size + 256
    packer, total = lzma.LZMACompressor(preset=0), 256
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            total += len(packer.compress(block))
    return min(total + len(packer.flush()), size + size // 100 + 256)


def cut(path, name):
    """Pieces of a packed file and their manifest, as (path, name) each."""
    packer, digest, pieces, parts = lzma.LZMACompressor(preset=6), hashlib.sha256(), [], bytearray()

    def put(force=False):
        while len(parts) >= PIECE or (force and parts):
            piece = f"{os.path.basename(name)}.xz.{len(pieces):02}"
            with open(os.path.join(scratch, piece), "wb") as file:
                file.write(parts[:PIECE])
            del parts[:PIECE]
            pieces.append(piece)

    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            parts.extend(packer.compress(block))
            put()
    parts.extend(packer.flush())
    put(force=True)
    manifest = os.path.join(scratch, os.path.basename(name) + ".pieces.json")
    with open(manifest, "w") as file:
        json.dump({"pieces": pieces, "sha256": digest.hexdigest()}, file)
    place = os.path.dirname(name)
    return [(manifest, os.path.join(place, os.path.basename(manifest)))] + [
        (os.path.join(scratch, piece), os.path.join(place, piece)) for piece in pieces]


def files():
    """(path, name in the folder, bytes in an archive) of everything, in order of worth."""
    found = []
    for place, _, names in os.walk(folder):
        for file in names:
            path = os.path.join(place, file)
            found.append((path, os.path.relpath(path, folder)))
    for path, name in sorted(found, key=lambda row: (rank(row[1]), row[1])):
        size = estimate(path)
        if os.path.getsize(path) <= ROOM and size <= PIECE:
            yield path, name, size
        else:
            yield from ((piece, inside, estimate(piece)) for piece, inside in cut(path, name))


def parts():
    """Files by archive, as many in each as fit."""
    part, size = [], 0
    for path, name, more in files():
        if part and size + more > ROOM:
            yield part
            part, size = [], 0
        part.append((path, name))
        size += more
    yield part


def pack(number, part):
    path = os.path.join(out, f"occlude-gpu-kit.{number}.tar.xz")
    root = os.path.basename(os.path.normpath(folder))
    with tarfile.open(path, "w:xz", preset=6) as archive:
        for source, name in part:
            entry = archive.gettarinfo(source, os.path.join(root, name))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            with open(source, "rb") as file:
                archive.addfile(entry, file)
    size = os.path.getsize(path)
    if size > limit:
        sys.exit(f"error: `{path}` has {size} bytes, more than the {limit} of a part")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    print(f"{os.path.basename(path)}  {size / 2**20:6.1f} MiB  {len(part)} files  sha256 {digest}", flush=True)


for number, part in enumerate(parts(), 1):
    pack(number, part)
