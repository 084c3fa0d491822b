"""ONNX Runtime with CUDA out of its wheel. Arguments: folder of the wheel, version, folder for the libraries.

CUDA's and cuDNN's own libraries are not in it; they come with torch."""

import glob
import os
import shutil
import sys
import zipfile

folder, version, lib = sys.argv[1:]
WANTED = {
    f"libonnxruntime.so.{version}": "libonnxruntime.so",
    "libonnxruntime_providers_shared.so": None,
    "libonnxruntime_providers_cuda.so": None,
    "libonnxruntime_providers_tensorrt.so": None,
}
wheels = glob.glob(os.path.join(folder, f"onnxruntime_gpu-{version}-*.whl"))
if not wheels:
    sys.exit(f"error: `{folder}` has no wheel of onnxruntime-gpu {version}")
os.makedirs(lib)
with zipfile.ZipFile(wheels[0]) as wheel:
    names = {os.path.basename(name): name for name in wheel.namelist() if "/capi/" in name}
    for name, other in WANTED.items():
        if name not in names:
            sys.exit(f"error: `{wheels[0]}` has no `{name}`")
        with wheel.open(names[name]) as source, open(os.path.join(lib, other or name), "wb") as target:
            shutil.copyfileobj(source, target)
