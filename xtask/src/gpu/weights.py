"""A checkpoint of random weights that packs well. Arguments: architecture, file (safetensors).

Each tensor has 16 values only, which float16 holds exactly: half a byte of information a weight, where random floats have four.
Their spread is He's, so that no layer fades out or overflows."""

import sys

import torch
import torchvision
from safetensors.torch import save_file

arch, path = sys.argv[1:]
generator = torch.Generator().manual_seed(0)
state = {}
for name, tensor in getattr(torchvision.models, arch)(weights=None).state_dict().items():
    if name.startswith("fc."):
        continue
    if tensor.dim() == 4:
        # 15 steps of a power of two, uniform: a spread of 4.3 steps
        step = 2.0 ** round(torch.log2((2 / tensor[0].numel()) ** torch.tensor(0.5) / 4.3).item())
        tensor = (torch.randint(0, 16, tensor.shape, generator=generator) - 7.5) * step
    state[name] = tensor.contiguous()
save_file(state, path)
