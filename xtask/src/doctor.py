"""Prints one JSON object of strings: the devices that PyTorch and ONNX Runtime can use."""

import json

rows = {}
try:
    import torch

    rows["torch"] = f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}"
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_name(i) for i in range(count)]
    rows["torch devices"] = ", ".join(["cpu (" + torch.backends.cpu.get_cpu_capability() + ")"] + names)
except Exception as error:
    rows["torch"] = f"does not load: {error}"
try:
    import onnxruntime

    rows["onnxruntime"] = onnxruntime.__version__
    rows["execution providers"] = ", ".join(onnxruntime.get_available_providers())
except Exception as error:
    rows["onnxruntime"] = f"does not load: {error}"
print(json.dumps(rows))
