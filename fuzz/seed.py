"""Fills `corpus/` with seeds made from the golden files of the crates: run `python seed.py` here.

Needs nothing but Python. The seeds are not committed; they are the golden files, cut to what each
target takes.
"""

import io
import pathlib
import struct
import tarfile
import zipfile

HERE = pathlib.Path(__file__).parent
CHECKPOINTS = HERE.parent / "crates/checkpoint/tests/golden"
PICKLES = HERE.parent / "crates/pickle/tests/golden"
PICTURES = HERE.parent / "crates/views/tests/pictures"
# Behind the magic number, the protocol and the system information of a legacy stream.
PARTS_BEFORE_OBJECT = 3


def after_pickles(data, count):
    """What follows the first `count` pickles."""
    import pickletools

    stream = io.BytesIO(data)
    for _ in range(count):
        for _ in pickletools.genops(stream):
            pass
    return stream.read()


def shard():
    """A tar file of two samples, one with a name longer than a header holds."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in [("a.jpg", b"1"), ("a.cls", b"3"), ("d" * 120 + "/b.png", b"2"), ("b.cls", b"x")]:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def index():
    """A cached index of one picture, without its checksum (`crates/dataset/src/cache.rs`)."""
    blob = lambda data: struct.pack("<Q", len(data)) + data
    place = blob(b"a") + struct.pack("<4Q", 1, 2, 3, 4)
    columns = struct.pack("<QIII", 1, 5, 0, 0)
    return b"".join([
        b"\0", blob(b"/data"), struct.pack("<Q", 1), blob(b"a"), struct.pack("<Q", 1), place,
        blob(b"x.jpg"), columns, struct.pack("<Q", 0),
    ])


def seeds():
    yield "index_cache", "one", index()
    yield "tar_shard", "two", shard()
    yield "picture_list", "plain", b"# root: x\na/1.jpg\nb/2.jpg 1\nb/3.jpg\tdog\n"
    for path in PICTURES.glob("*.jpg"):
        yield "views", path.stem, path.read_bytes()
    for path in [*PICKLES.glob("*.pkl"), *CHECKPOINTS.glob("*.pkl")]:
        data = path.read_bytes()
        yield "pickle", path.stem, data
        if path.parent == CHECKPOINTS:
            yield "numpy_pickle", path.stem, data
            yield "checkpoint", path.stem, data
    for path in CHECKPOINTS.glob("*.safetensors"):
        yield "safetensors", path.stem, path.read_bytes()[8:]
        yield "checkpoint", path.stem, path.read_bytes()
    for path in CHECKPOINTS.glob("*.pth"):
        data = path.read_bytes()
        yield "checkpoint", path.stem, data
        if zipfile.is_zipfile(path):
            yield "torch_zip", path.stem, data
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith("data.pkl"):
                        yield "torch_pickle", path.stem, archive.read(name)
                        yield "pickle", path.stem, archive.read(name)
        else:
            yield "torch_legacy", path.stem, after_pickles(data, PARTS_BEFORE_OBJECT)


def main():
    for target, name, data in seeds():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
