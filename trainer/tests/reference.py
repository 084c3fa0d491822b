"""Features, gradients and statistics of torchvision's ResNet with weights that are far from their start.

Arguments: architecture, file for the weights, file for the answers (safetensors both)."""

import sys

import torch
import torchvision
from safetensors.torch import load_file, save_file

arch, weights, answers = sys.argv[1:]
torch.manual_seed(0)
net = getattr(torchvision.models, arch.removesuffix("-small"))()
net.fc = torch.nn.Identity()
if arch.endswith("-small"):
    net.conv1, net.maxpool = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False), torch.nn.Identity()
for module in net.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        # As after training: nothing is one or zero, so that no term of the formula is hidden.
        torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        torch.nn.init.uniform_(module.bias, -0.2, 0.2)
        torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
        torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
save_file({k: v.clone() for k, v in net.state_dict().items()}, weights)
# The layout that our encoder computes in. In the other one PyTorch's own gradients differ from these by a few
# thousandths: where rounding moves a value across zero, a rectifier switches.
layout = torch.channels_last
net = net.to(memory_format=layout)
images = torch.randn(8, 3, 96, 96).to(memory_format=layout)
towards = torch.randn(8, net(images[:2]).shape[1])
net.load_state_dict(load_file(weights))
with torch.inference_mode():
    out = {"images": images, "towards": towards, "eval": net.eval()(images).clone()}
features = net.train()(images)
(features * towards).sum().backward()
out["train"] = features.detach()
out |= {f"grad.{name}": parameter.grad for name, parameter in net.named_parameters()}
out |= {f"after.{name}": value for name, value in net.named_buffers() if "running" in name}
save_file({k: v.contiguous() for k, v in out.items()}, answers)
