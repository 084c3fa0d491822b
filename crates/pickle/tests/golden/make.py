"""Writes the golden pickles of this folder: run `python make.py` here.

`values_pN.pkl` holds one object in protocol N; `python2.pkl` is put together instruction by
instruction as Python 2 would write it.
"""

import argparse
import collections
import pathlib
import pickle
import struct

HERE = pathlib.Path(__file__).parent


def values():
    shared = [1, 2]
    return {
        "none": None,
        "true": True,
        "false": False,
        "ints": [0, 1, 255, 256, 65536, -1, 2**31, -(2**63), 2**80],
        "floats": [1.5, -0.0, float("inf")],
        "strings": ["", "abc", "caf\u00e9\n\\", "\U0001f600", "x" * 300],
        "bytes": b"\x00\xff",
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "set": {7},
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
        "namespace": argparse.Namespace(lr=0.03, arch="resnet50"),
        "shared": [shared, shared],
    }


def python2():
    def short(s):
        return b"U" + bytes([len(s)]) + s

    return b"".join(
        [
            b"\x80\x02}q\x00(",
            short(b"raw") + b"T" + struct.pack("<I", 3) + b"\x00\xffa",
            short(b"unicode") + b"X" + struct.pack("<I", 2) + "\u00e9".encode(),
            short(b"flag") + b"I01\n",
            short(b"long") + b"\x8a\x01\xfe",
            short(b"ordered"),
            # OrderedDict([['b', 1], ['a', 2]]): Python 2 passes the items to the constructor.
            b"ccollections\nOrderedDict\nq\x01](](" + short(b"b") + b"K\x01e](" + short(b"a") + b"K\x02ee\x85Rq\x02",
            # An instance of an old-style class: INST, then its attributes.
            short(b"instance") + b"(iargparse\nNamespace\n}(" + short(b"lr") + b"G?\x9e\xb8Q\xeb\x85\x1e\xb8ub",
            short(b"object") + b"(cargparse\nNamespace\nK\x05o",
            b"u.",
        ]
    )


def main():
    for protocol in range(6):
        (HERE / f"values_p{protocol}.pkl").write_bytes(pickle.dumps(values(), protocol=protocol))
    (HERE / "python2.pkl").write_bytes(python2())


if __name__ == "__main__":
    main()
