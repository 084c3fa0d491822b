"""BYOL and LEWEL in PyTorch, written from the papers (arXiv 2006.07733, 2203.14898, 2101.08482) for comparison.

Usage: following.py QUESTION.json WEIGHTS.safetensors BATCHES.safetensors ANSWERS.safetensors

Loads the state of a method before its first step, computes the loss and every gradient of the first batch, then
makes all steps with plain SGD, all in double precision, and writes what it found.
"""

import copy
import json
import math
import sys

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn


def mlp(inputs, hidden, outputs, norm, conv):
    """Two layers; as convolutions of one position, without biases, where `conv`."""
    linear = (lambda i, o: nn.Conv1d(i, o, 1, bias=False)) if conv else nn.Linear
    layers = [linear(inputs, hidden)]
    if norm:
        layers.append(nn.BatchNorm1d(hidden))
    return nn.Sequential(*layers, nn.ReLU(), linear(hidden, outputs))


class Branch(nn.Module):
    """A ResNet and what is behind it: a projector, or the neck of alignment maps."""

    def __init__(self, asked):
        super().__init__()
        self.encoder = torchvision.models.resnet18()
        self.encoder.fc = nn.Identity()
        self.maps = None
        self.encoder.layer4.register_forward_hook(self.keep)
        self.align, dim, hidden = asked["align"], asked["dim"], asked["hidden"]
        conv = self.align is not None
        self.g = mlp(512, hidden, dim, asked["norm"], conv)
        self.g_obj = mlp(512, hidden, dim, asked["norm"], conv) if conv else None

    def keep(self, module, inputs, output):
        self.maps = output

    def forward(self, x):
        pooled = self.encoder(x)  # (B, C)
        if self.align is None:
            return self.g(pooled), None
        features = self.maps.flatten(2)  # (B, C, hw)
        tokens = torch.cat([pooled.unsqueeze(2), features], 2)
        projected = self.g(tokens)  # (B, d, 1 + hw)
        alignment = (F.normalize(projected[:, :, 1:], dim=1) / self.align["scale"]).softmax(2)
        heads = self.align["heads"]
        values = features.unflatten(1, (heads, -1))  # (B, heads, C / heads, hw)
        alignment = alignment.unflatten(1, (heads, -1))  # (B, heads, d / heads, hw)
        parts = torch.einsum("bhcp,bhnp->bhcn", values, alignment).flatten(1, 2)  # (B, C, d / heads)
        return projected[:, :, 0], self.g_obj(parts)  # (B, d), (B, d, n)


class Following(nn.Module):
    """BYOL, with aligned embeddings where asked."""

    def __init__(self, asked):
        super().__init__()
        self.asked = asked
        self.online, conv = Branch(asked), asked["align"] is not None
        self.predictor = mlp(asked["dim"], asked["predictor"], asked["dim"], True, conv)
        self.predictor_obj = mlp(asked["dim"], asked["predictor"], asked["dim"], True, conv) if conv else None
        self.target = copy.deepcopy(self.online)
        # a copied hook is the original's
        self.target.encoder.layer4._forward_hooks.clear()
        self.target.encoder.layer4.register_forward_hook(self.target.keep)
        for p in self.target.parameters():
            p.requires_grad_(False)

    def loss(self, views):
        self.train()
        if self.asked["eman"]:
            self.target.eval()
        with torch.no_grad():
            targets = [self.target(v) for v in views]
        total = 0
        for i in (0, 1):
            z, o = self.online(views[i])
            t, t_obj = targets[1 - i]
            conv = self.asked["align"] is not None
            p = self.predictor(z.unsqueeze(2)).squeeze(2) if conv else self.predictor(z)
            loss = (2 - 2 * F.cosine_similarity(p, t, dim=1)).mean()
            if conv:
                w = self.asked["align"]["weight"]
                objects = (2 - 2 * F.cosine_similarity(self.predictor_obj(o), t_obj, dim=1)).mean()
                loss = w * loss + (1 - w) * objects
            total = total + loss
        return total

    @torch.no_grad()
    def follow(self, share):
        """`share`: how much of training lies behind."""
        start = self.asked["momentum"]
        m = 1 - (1 - start) * (math.cos(math.pi * share) + 1) / 2
        for t, q in zip(self.target.parameters(), self.online.parameters()):
            t.copy_(m * t + (1 - m) * q)
        if self.asked["eman"]:
            for t, q in zip(self.target.buffers(), self.online.buffers()):
                t.copy_(m * t + (1 - m) * q if t.is_floating_point() else q)


class Contrast(nn.Module):
    """MoCo v2 with the neck of alignment maps: a queue for each aligned embedding."""

    def __init__(self, asked):
        super().__init__()
        self.asked = asked
        self.online = Branch(asked)
        self.target = copy.deepcopy(self.online)
        self.target.encoder.layer4._forward_hooks.clear()
        self.target.encoder.layer4.register_forward_hook(self.target.keep)
        for p in self.target.parameters():
            p.requires_grad_(False)
        n = asked["dim"] // asked["align"]["heads"]
        self.queue = nn.Parameter(torch.zeros(asked["dim"], asked["queue"]), requires_grad=False)
        self.queue_aligned = nn.Parameter(torch.zeros(n, asked["dim"], asked["queue"]), requires_grad=False)
        self.next, self.fresh = 0, None

    def one(self, q, k, queue):
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue], 1) / self.asked["temperature"]
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    def loss(self, views):
        self.train()
        with torch.no_grad():
            k, k_obj = (F.normalize(x, dim=1) for x in self.target(views[1]))
        q, q_obj = (F.normalize(x, dim=1) for x in self.online(views[0]))
        self.fresh = (k, k_obj)
        queue, aligned = self.queue.clone(), self.queue_aligned.clone()
        objects = [self.one(q_obj[:, :, j], k_obj[:, :, j], aligned[j]) for j in range(q_obj.shape[2])]
        w = self.asked["align"]["weight"]
        return w * self.one(q, k, queue) + (1 - w) * torch.stack(objects).mean()

    @torch.no_grad()
    def follow(self, share):
        k, k_obj = self.fresh
        for i in range(len(k)):
            self.queue[:, self.next] = k[i]
            self.queue_aligned[:, :, self.next] = k_obj[i].t()
            self.next = (self.next + 1) % self.queue.shape[1]
        m = self.asked["momentum"]
        for t, q in zip(self.target.parameters(), self.online.parameters()):
            t.copy_(m * t + (1 - m) * q)


def ours(name):
    """The trainer's name of a tensor of ours."""
    branch, _, rest = name.partition(".")
    if branch not in ("online", "target"):
        return name
    end = "q" if branch == "online" else "k"
    part, rest = rest.split(".", 1)
    return {"encoder": f"encoder_{end}", "g": f"head_{end}", "g_obj": f"head_obj_{end}"}[part] + "." + rest


def main():
    question, weights, batches, answers = sys.argv[1:]
    torch.set_num_threads(2)
    asked = json.load(open(question))
    weights, batches = load_file(weights), load_file(batches)
    model = (Contrast if asked.get("queue") else Following)(asked)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            known = weights.get(ours(name))
            if known is None:
                # heads of ours do not count their batches
                assert name.endswith("num_batches_tracked"), name
                continue
            tensor.copy_(known.view_as(tensor))
    model.double()
    out = {}
    steps = asked["steps"]
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for step in range(steps):
        loss = model.loss([batches[f"{step}.{view}"].double() for view in (0, 1)])
        model.zero_grad()
        loss.backward()
        out[f"loss.{step}"] = loss.detach().reshape(1)
        if step == 0:
            for name, p in parameters.items():
                out[f"grad.{ours(name)}"] = p.grad.flatten().clone()
        with torch.no_grad():
            for p in parameters.values():
                p -= asked["lr"] * p.grad
        model.follow(step / steps)
    for name, tensor in model.state_dict().items():
        out[f"after.{ours(name)}"] = tensor.to(torch.float32).flatten().clone()
    save_file(out, answers)


main()
