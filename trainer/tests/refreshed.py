"""Running statistics of a torchvision network as plain means over batches: a momentum of `None`.

Arguments: architecture, file for the weights, file for the answers (safetensors both)."""

import sys

import torch
import torchvision
from safetensors.torch import save_file

arch, weights, answers = sys.argv[1:]
torch.manual_seed(5)
model = getattr(torchvision.models, arch)(weights=None)
batches = [torch.randn(n, 3, 64, 64) * (1 + n / 8) + 0.3 for n in (8, 6, 8)]
# statistics that are not those of these batches
model.train()(torch.randn(4, 3, 64, 64) * 3)
encoder = {name: t for name, t in model.state_dict().items() if not name.startswith("fc.")}
save_file({name: t.clone() for name, t in encoder.items()}, weights)

for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.reset_running_stats()
        module.momentum = None
with torch.no_grad():
    for batch in batches:
        model(batch)
found = {name: t.clone() for name, t in model.state_dict().items() if "running" in name}
found |= {f"batch.{i}": batch for i, batch in enumerate(batches)}
save_file(found, answers)
