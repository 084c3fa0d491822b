"""Fills `corpus/` with seeds made from the golden files of the crates: run `python seed.py` here.

Needs nothing but Python. The seeds are not committed; they are the golden files, cut to what each
target takes.
"""

import pathlib
import zipfile

HERE = pathlib.Path(__file__).parent
CHECKPOINTS = HERE.parent / "crates/checkpoint/tests/golden"
PICKLES = HERE.parent / "crates/pickle/tests/golden"
PICTURES = HERE.parent / "crates/preprocess/tests/views"
# Behind the magic number, the protocol and the system information of a legacy stream.
PARTS_BEFORE_OBJECT = 3


def after_pickles(data, count):
    """What follows the first `count` pickles."""
    import io
    import pickletools

    stream = io.BytesIO(data)
    for _ in range(count):
        for _ in pickletools.genops(stream):
            pass
    return stream.read()


def seeds():
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
