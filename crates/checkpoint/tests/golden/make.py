"""Writes the golden checkpoints of this folder: run `python make.py` here.

Needs torch, numpy and safetensors. Each file holds the tensors of an `expected_*.safetensors`, which
the safetensors library writes contiguously:

- `state_zip.pth`, `state_legacy.pth`: `torch.save` in both formats; strided, shared, offset and
  expanded storages, every type, nested dictionaries, a namespace.
- `state_big.pth`: the zip format as a big-endian machine writes it.
- `kinds_zip.pth`, `kinds_legacy.pth`: the other ways in which PyTorch writes tensors (parameters and
  tensors with attributes, subclasses, types of `_rebuild_tensor_v3`), what is skipped (sparse,
  quantised, conjugated), and what stands beside the tensors of real runs.
- `part_moco.pth`: a few parameters of MoCo's two encoders and what stands beside them.
- `parallel_zip.pth`: a whole module in `DataParallel`.
- `module_zip.pth`: a whole `nn.Module` instead of its state dict.
- `numpy_pN.pkl`: arrays as Detectron2 pickles them, in protocol N; Fortran order, big-endian.
- `caffe2.pkl`: arrays as Python 2 pickles them.
- `attack_*.pth`: files that would run a command if Python loaded them.
"""

import argparse
import collections
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).parent


def state():
    base = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    counting = torch.arange(24)
    tensors = collections.OrderedDict()
    tensors["module.base"] = base
    tensors["module.transposed"] = base.t()
    tensors["module.offset"] = base[1, 1:]
    tensors["module.step"] = torch.arange(10, dtype=torch.float32)[::2]
    tensors["module.channels_last"] = (
        torch.arange(36, dtype=torch.float32).reshape(2, 2, 3, 3).contiguous(memory_format=torch.channels_last)
    )
    tensors["module.expanded"] = torch.tensor([1.5, -2.5]).expand(3, 2)
    tensors["module.parameter"] = torch.nn.Parameter(torch.tensor([0.25]))
    tensors["module.scalar"] = torch.tensor(7)
    tensors["module.empty"] = torch.zeros(0, 3)
    floats = (counting.double() - 12) / 7
    for dtype in [torch.float64, torch.float16, torch.bfloat16]:
        tensors[f"module.{str(dtype)[6:]}"] = floats.to(dtype).reshape(2, 3, 4)
    for dtype in [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]:
        tensors[f"module.{str(dtype)[6:]}"] = (counting - (0 if dtype == torch.uint8 else 12)).to(dtype)
    momentum = torch.tensor([3.0, 4.0])
    checkpoint = {
        "epoch": 3,
        "arch": "resnet18",
        "best": 0.5,
        "args": argparse.Namespace(lr=0.03, resume=None, gpus=[0, 1]),
        "state_dict": tensors,
        "optimizer": {
            "state": {0: {"momentum_buffer": momentum}},
            "param_groups": [{"lr": 0.03, "params": [0]}],
        },
        "complex": torch.zeros(2, dtype=torch.complex64),
    }
    expected = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    expected["optimizer.state.0.momentum_buffer"] = momentum
    return checkpoint, expected


class Tagged(torch.Tensor):
    """A subclass, as fastai and torchvision have."""


def kinds():
    ramp = torch.arange(6, dtype=torch.float32)
    tagged = torch.nn.Parameter(ramp.reshape(3, 2).t())
    tagged.tag = "weight decay"
    noted = ramp[2:5]
    noted.note = {"from": "elsewhere"}
    tensors = {
        "parameter_with_state": tagged,
        "tensor_with_state": noted,
        "subclass": ramp.reshape(2, 3)[:, 1].as_subclass(Tagged),
        "buffer": torch.nn.Buffer(ramp + 1),
        "flipped_strides": ramp.as_strided((2, 2), (1, 3), 1),
        "overlapping": ramp.as_strided((4, 3), (1, 1)),
    }
    checkpoint = {
        "model": tensors,
        "nested": {"list": [ramp + 2, (ramp + 3,)], 7: {"deep": ramp + 4}},
        "default": collections.defaultdict(list, {"x": ramp + 5}),
        "array": np.arange(3, dtype=np.float32),
        "best": np.float64(0.5),
        "shape": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "type": torch.float16,
        "when": None,
        "rng": torch.get_rng_state()[:4],
        "sparse": torch.eye(2).to_sparse(),
        "quantised": torch.quantize_per_tensor(ramp, 0.1, 0, torch.qint8),
        "conjugated": torch.zeros(2, dtype=torch.complex64).conj(),
        "imaginary": torch.zeros(2, dtype=torch.complex128),
        "wide": torch.tensor([1, 2]).to(torch.uint16),
        "eighth": ramp.to(torch.float8_e4m3fn),
    }
    expected = {name: tensor.detach().as_subclass(torch.Tensor).clone().contiguous() for name, tensor in tensors.items()}
    expected |= {"nested.list.0": ramp + 2, "nested.list.1.0": ramp + 3, "nested.7.deep": ramp + 4}
    expected |= {"default.x": ramp + 5, "array": torch.arange(3.0), "rng": checkpoint["rng"].clone()}
    return checkpoint, expected


def big_endian(little):
    """The same archive with every storage byte-swapped."""
    sizes = {}

    class Sizes(pickle.Unpickler):
        def persistent_load(self, pid):
            sizes[pid[2]] = torch._utils._element_size(pid[1].dtype)
            return pid

        def find_class(self, module, name):
            known = "Storage" in name or module in ("collections", "argparse")
            return super().find_class(module, name) if known else lambda *args: None

    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(little)) as source, zipfile.ZipFile(out, "w") as target:
        root = source.namelist()[0].split("/")[0]
        Sizes(io.BytesIO(source.read(f"{root}/data.pkl"))).load()
        for name in source.namelist():
            data = source.read(name)
            if name == f"{root}/byteorder":
                data = b"big"
            elif name.startswith(f"{root}/data/"):
                size = sizes[name.rsplit("/", 1)[1]]
                # Complex numbers are swapped part by part; this one is all zeros.
                data = b"".join(data[i : i + size][::-1] for i in range(0, len(data), size))
            target.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def part_moco():
    """Parameters that repeat one number: small, and found by their names and shapes."""
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.weight": (64,),
        "bn1.num_batches_tracked": (),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "fc.0.weight": (2048, 2048),
    }
    state = {
        f"module.{encoder}.{name}": torch.ones(()).expand(shape)
        for encoder in ["encoder_q", "encoder_k"]
        for name, shape in shapes.items()
    }
    return {"epoch": 200, "arch": "resnet50", "state_dict": state | {"module.queue": torch.zeros(2, 2)}}


def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Sequential(torch.nn.Linear(2, 1))
    )


def arrays():
    base = np.arange(6, dtype=np.float32).reshape(2, 3)
    return {
        "stem.weight": base,
        "stem.fortran": np.asfortranarray(base),
        "stem.sliced": base[:, ::2],
        "stem.big": base.astype(">f4"),
        "stem.double": base.astype(np.float64) / 3,
        "stem.half": base.astype(np.float16),
        "stem.count": np.asarray(5, dtype=np.int64),
        "stem.ints": np.arange(-2, 2, dtype=np.int32),
        "stem.shorts": np.arange(-2, 2, dtype=np.int16),
        "stem.bytes": np.arange(4, dtype=np.uint8),
        "stem.signed": np.arange(-2, 2, dtype=np.int8),
        "stem.flags": np.array([True, False]),
        "stem.empty": np.zeros((0, 2), dtype=np.float32),
    }


def expected_arrays():
    return {
        name: np.ascontiguousarray(a.astype(a.dtype.newbyteorder("="))).reshape(a.shape)
        for name, a in arrays().items()
    }


def caffe2():
    """{'blobs': {'stem.weight': array}} as Python 2 and its numpy write it: data in BINSTRING."""

    def short(s):
        return b"U" + bytes([len(s)]) + s

    data = arrays()["stem.weight"].tobytes()
    dtype = b"cnumpy\ndtype\n(" + short(b"f4") + b"K\0K\1tR(K\3" + short(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + short(b"b") + b"tR"
        b"(K\1(K\2K\3t" + dtype + b"I00\nT" + struct.pack("<I", len(data)) + data + b"tb"
    )
    return b"\x80\x02}(" + short(b"blobs") + b"}(" + short(b"stem.weight") + array + b"uu."


class Attack:
    def __reduce__(self):
        return os.system, ("echo executed",)


def main():
    checkpoint, expected = state()
    torch.save(checkpoint, HERE / "state_zip.pth")
    torch.save(checkpoint, HERE / "state_legacy.pth", _use_new_zipfile_serialization=False)
    (HERE / "state_big.pth").write_bytes(big_endian((HERE / "state_zip.pth").read_bytes()))
    safetensors.torch.save_file(expected, HERE / "expected_state.safetensors", {"source": "make.py"})

    # PyTorch itself must read the swapped file as the same values.
    swapped = torch.load(HERE / "state_big.pth", weights_only=False)["state_dict"]
    assert all(torch.equal(swapped[name], checkpoint["state_dict"][name]) for name in swapped)

    checkpoint, expected = kinds()
    torch.save(checkpoint, HERE / "kinds_zip.pth")
    torch.save(checkpoint, HERE / "kinds_legacy.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(expected, HERE / "expected_kinds.safetensors")

    torch.save(part_moco(), HERE / "part_moco.pth")
    torch.save(torch.nn.DataParallel(module()), HERE / "parallel_zip.pth")
    torch.save(module(), HERE / "module_zip.pth")
    safetensors.torch.save_file(module().state_dict(), HERE / "expected_module.safetensors")

    payload = {"model": arrays(), "__author__": "make.py", "matching_heuristics": True}
    for protocol in range(6):
        (HERE / f"numpy_p{protocol}.pkl").write_bytes(pickle.dumps(payload, protocol=protocol))
    (HERE / "caffe2.pkl").write_bytes(caffe2())
    safetensors.numpy.save_file(expected_arrays(), HERE / "expected_numpy.safetensors")

    attacked = {"state_dict": {"conv1.weight": torch.zeros(1)}, "epoch": Attack()}
    torch.save(attacked, HERE / "attack_zip.pth")
    torch.save(attacked, HERE / "attack_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
