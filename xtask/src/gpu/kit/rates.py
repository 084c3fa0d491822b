"""What the device does at most, and the floor of a training step that follows from it. Prints one JSON object.

The floor counts, for each convolution, the longer of its arithmetic at the measured rate of a large product and of its
traffic at the measured rate of a large copy: forward it reads its input and writes its output; backward the gradient of
the input and that of the weights each read two maps and write at most one. Normalisation cannot be part of a convolution, because it needs
the statistics of the whole output: it reads and writes the map once more forward; backward it reads two maps, then reads
both again and writes one. Everything else (activations, additions, optimiser, augmentation) counts as free, so no step is faster."""

import argparse
import json
import time

import torch
import torchvision
from torch import nn

# Passes of a step: with a backward pass, and forward only (the momentum encoder: key, saliency, hard negative).
PASSES = {"moco-v2": (1, 1), "saliency-moco": (1, 3)}


def seconds(device, work, least=0.5):
    """Seconds of one call, the median of several, after a warm-up."""
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    for _ in range(3):
        work()
    wait()
    times, began = [], time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - began < least and len(times) < 50):
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def product(device, side, kind, tf32):
    """Operations a second of a square product on random numbers."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    return 2 * side**3 / seconds(device, lambda: a @ b)


def copy(device, mib):
    """Bytes a second of a copy, read and written ones together."""
    source = torch.randint(0, 255, (mib << 20,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds(device, lambda: target.copy_(source))


def convolutions(arch, size):
    """(operations, numbers read, numbers written) of each convolution, for one picture."""
    found = []

    def look(layer, inputs, output):
        weights = layer.weight.numel() // layer.out_channels
        found.append((2 * weights * output[0].numel(), inputs[0][0].numel(), output[0].numel()))

    net = getattr(torchvision.models, arch)(weights=None).to("meta").eval()
    hooks = [m.register_forward_hook(look) for m in net.modules() if isinstance(m, nn.Conv2d)]
    net(torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def floor(layers, width, arithmetic, traffic, passes):
    """Seconds of a picture at least; `width` bytes a number."""
    with_backward, forward_only = passes
    total = 0.0
    for number, (operations, read, written) in enumerate(layers):
        once = max(operations / arithmetic, (read + written) * width / traffic)
        # the first layer's input needs no gradient
        backward = once * (1 if number == 0 else 2) + 5 * written * width / traffic
        forward = once + 2 * written * width / traffic
        total += with_backward * (forward + backward) + forward_only * forward
    return total


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", required=True)
    parser.add_argument("--arch", required=True)
    for name in ("size", "matmul", "copy-mib"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    kind, width = (torch.bfloat16, 2) if args.device == "cuda" else (torch.float32, 4)
    arithmetic, traffic = product(args.device, args.matmul, kind, False), copy(args.device, args.copy_mib)
    layers = convolutions(args.arch, args.size)
    found = {
        "precision": str(kind).removeprefix("torch."), "tflops": arithmetic / 1e12, "copy_gb_per_s": traffic / 1e9,
        "tf32_tflops": product(args.device, args.matmul, torch.float32, True) / 1e12 if args.device == "cuda" else None,
        "forward_gflop": sum(row[0] for row in layers) / 1e9,
        "floor": {name: 1 / floor(layers, width, arithmetic, traffic, passes) for name, passes in PASSES.items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
