"""DINO, iBOT and attention-guided masks in PyTorch, written from the papers (arXiv 2104.14294, 2111.07832, 2203.12719,
2005.00928) for comparison; with a dense contrastive loss of patches, written from its definition in docs/recipes.md.

Usage: distilling.py QUESTION.json WEIGHTS.safetensors BATCHES.safetensors ANSWERS.safetensors

Loads the state of a method before its first step, makes all steps of all epochs with plain SGD in double precision, and writes
losses, gradients and what is left. Which patches are hidden was drawn by the other side: as places, or as ranks of what is
computed here.
"""

import json
import math
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file


class Network:
    """A vision transformer with a head; `end` is q or k, as in the names of its tensors."""

    def __init__(self, asked, tensors, end):
        self.asked, self.all, self.end = asked, tensors, end

    def __getitem__(self, name):
        part, _, rest = name.partition(".")
        return self.all[f"{part}_{self.end}.{rest}"]

    def linear(self, x, name):
        return F.linear(x, self[f"{name}.weight"], self[f"{name}.bias"])

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], 1e-6)

    def positions(self, height, width):
        known, grid = self["encoder.pos_embed"], self.asked["grid"]
        if (height, width) == (grid, grid):
            return known
        of_class, of_patches = known[:, :1], known[:, 1:]
        maps = of_patches.transpose(1, 2).unflatten(2, (grid, grid))
        maps = F.interpolate(maps, size=(height, width), mode="bicubic", antialias=True)
        return torch.cat([of_class, maps.flatten(2).transpose(1, 2)], 1)

    def block(self, x, i):
        """The tokens behind block `i`, and its attention (B, heads, T, T)."""
        name, heads = f"encoder.blocks.{i}", self.asked["heads"]
        b, t, d = x.shape
        qkv = self.linear(self.norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
        q, k, v = (part.view(b, t, heads, d // heads).transpose(1, 2) for part in qkv.chunk(3, 2))
        attention = (q @ k.transpose(2, 3) / math.sqrt(d // heads)).softmax(3)
        x = x + self.linear((attention @ v).transpose(1, 2).reshape(b, t, d), f"{name}.attn.proj")
        y = F.gelu(self.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return x + self.linear(y, f"{name}.mlp.fc2"), attention

    def tokens(self, images, mask=None):
        patch = self.asked["patch"]
        maps = F.conv2d(
            images, self["encoder.patch_embed.proj.weight"], self["encoder.patch_embed.proj.bias"], stride=patch
        )
        height, width = maps.shape[2:]
        x = maps.flatten(2).transpose(1, 2)
        if mask is not None:
            x = torch.where(mask[:, :, None], self.all["mask_token"], x)
        x = torch.cat([self["encoder.cls_token"].expand(len(x), -1, -1), x], 1) + self.positions(height, width)
        seen = []
        for i in range(self.asked["depth"]):
            x, attention = self.block(x, i)
            seen.append(attention)
        return self.norm(x, "encoder.norm"), seen

    def projected(self, x):
        x = F.gelu(self.linear(x, "head.mlp.0"))
        return F.normalize(self.linear(F.gelu(self.linear(x, "head.mlp.2")), "head.mlp.4"), dim=-1)

    def logits(self, x):
        v = self["head.last_layer.weight_v"]
        weight = self["head.last_layer.weight_g"] * v / v.norm(dim=1, keepdim=True)
        return self.projected(x) @ weight.t()


def scores(kind, layer, power, seen):
    """What patches are ranked by, (B, T), of the attention of all blocks."""
    one = seen[len(seen) - 1 if layer is None else layer][:, :, 0, 1:]
    if kind == "raw":
        return one.mean(1)
    if kind == "log":
        return one.log().mean(1)
    if kind == "pow":
        return (one**power).mean(1)
    depth = len(seen)
    first = {"rollout-all": 0, "rollout-last": max(depth - 4, 0), "rollout-mid": max(depth // 2 - 2, 0)}[kind]
    last = depth if kind == "rollout-all" else min(first + 4, depth)
    rolled = torch.eye(seen[0].shape[-1], dtype=torch.float64)
    for attention in seen[first:last]:
        through = attention.mean(1) + torch.eye(attention.shape[-1], dtype=torch.float64)
        rolled = (through / through.sum(2, keepdim=True)) @ rolled
    return rolled[:, 0, 1:]


def ranked_by(asked, view, seen):
    pick = lambda values: (values[min(view, len(values) - 1)] if values else None)
    return scores(pick(asked["score"]), pick(asked["layer"]), asked["power"], seen)


def masks(asked, drawn, seen, count):
    """Of both large views which patches are hidden, (B, T) each."""
    out, ranked = [], asked["choice"] in ("high", "low", "hint")
    for view in (0, 1):
        mask = torch.zeros(count, seen[0][0].shape[-1] - 1, dtype=torch.bool)
        for i in range(count):
            places = torch.tensor(drawn[view * count + i], dtype=torch.long)
            if ranked and len(places):
                s = ranked_by(asked, view, [a[i : i + 1] for a in seen[view]])[0]
                places = torch.sort(s, descending=asked["choice"] != "low", stable=True).indices[places]
            mask[i, places] = True
        out.append(mask)
    return out


def cross_entropy(target, logits, temperature):
    return -(target * F.log_softmax(logits / temperature, -1)).sum(-1)


def dense(asked, orders, student, teacher):
    """Of the large views' patches: `orders` (B, T) best first, `student` and `teacher` (B, T, d) of length one."""
    pick = lambda x, places: torch.gather(x, 1, places[:, :, None].expand(-1, -1, x.shape[-1]))
    k, n = asked["positives"], asked["negatives"]
    unlike = torch.cat([pick(x, order[:, -n:]) for x, order in zip(teacher, orders)], 1)
    each = []
    for own, other in ((0, 1), (1, 0)):
        anchors, alike = pick(student[own], orders[own][:, :k]), pick(teacher[other], orders[other][:, :k])
        for a in range(k):
            for p in range(k):
                of = lambda x: (anchors[:, a : a + 1] * x).sum(2) / asked["temperature"]
                logits = torch.cat([of(alike[:, p : p + 1]), of(unlike)], 1)
                each.append(F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)))
    return torch.stack(each).mean()


class Method:
    def __init__(self, asked, tensors):
        self.asked, self.all = asked, tensors
        self.student, self.teacher = Network(asked, tensors, "q"), Network(asked, tensors, "k")
        self.learnt = [n for n in tensors if "_q." in n or n == "mask_token"]
        if asked["fixed"]:
            self.learnt.remove("head_q.last_layer.weight_g")

    def temperature(self, epoch):
        (start, end), warmup = self.asked["teacher_temperature"], self.asked["warmup"]
        steps = torch.linspace(start, end, warmup, dtype=torch.float64).tolist()
        return steps[epoch] if epoch < warmup else end

    def loss(self, views, step):
        asked, patches = self.asked, self.asked["patches"]
        sharp, soft = self.temperature(step // asked["per_epoch"]), asked["temperature"]
        with torch.no_grad():
            taught = [self.teacher.tokens(v) for v in views[:2]]
            logits = [self.teacher.logits(tokens) for tokens, _ in taught]
            centers = [self.all.get("center"), self.all.get("center2")]
            of_class = [F.softmax((x[:, 0] - centers[0]) / sharp, -1) for x in logits]
            hidden = [None, None]
            if patches:
                hidden = masks(patches, patches["drawn"][step], [seen for _, seen in taught], len(views[0]))
                of_patches = [F.softmax((x[:, 1:] - centers[1]) / sharp, -1) for x in logits]
        # where nothing is hidden the mask token has no gradient, and does not decay
        shown = hidden if any(m is not None and m.any() for m in hidden) else [None, None]
        tokens = [self.student.tokens(v, m)[0] for v, m in zip(views, shown + [None] * 9)]
        learnt = [self.student.logits(x) for x in tokens]
        total, terms = 0, 0
        for i, target in enumerate(of_class):
            for j, x in enumerate(learnt):
                if i != j:
                    total, terms = total + cross_entropy(target, x[:, 0], soft).mean(), terms + 1
        total = total / terms
        if patches:
            for target, x, mask in zip(of_patches, learnt, hidden):
                each = (cross_entropy(target, x[:, 1:], soft) * mask).sum(1) / mask.sum(1).clamp(min=1)
                total = total + patches["weight"] * each.mean() / 2
        if asked["dense"]:
            with torch.no_grad():
                scored = [ranked_by(patches, view, taught[view][1]) for view in (0, 1)]
                orders = [torch.sort(s, descending=True, stable=True).indices for s in scored]
                said = [self.teacher.projected(x[:, 1:]) for x, _ in taught]
            own = [self.student.projected(x[:, 1:]) for x in tokens[:2]]
            total = total + asked["dense"]["weight"] * dense(asked["dense"], orders, own, said)
        with torch.no_grad():
            m = asked["center_momentum"]
            both = torch.cat(logits)
            centers[0].copy_(m * centers[0] + (1 - m) * both[:, 0].mean(0, keepdim=True))
            if patches:
                centers[1].copy_(m * centers[1] + (1 - m) * both[:, 1:].mean((0, 1))[None])
        return total

    @torch.no_grad()
    def follow(self, share):
        m = 1 - (1 - self.asked["momentum"]) * (math.cos(math.pi * share) + 1) / 2
        for name, tensor in self.all.items():
            if "_k." in name:
                tensor.copy_(m * tensor + (1 - m) * self.all[name.replace("_k.", "_q.")])

    @torch.no_grad()
    def move(self, lr, decay):
        for name in self.learnt:
            p = self.all[name]
            if p.grad is None:
                continue
            g = p.grad * min(self.asked["clip"] / (p.grad.norm() + 1e-6), 1)
            p -= lr * (g + (decay * p if p.dim() > 1 else 0))


def half_cosine(ends, share):
    start, end = ends
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def main():
    question, weights, batches, answers = sys.argv[1:]
    torch.set_num_threads(1)
    asked = json.load(open(question))
    double = lambda path: {n: t.double() for n, t in load_file(path).items()}
    tensors, batches = double(weights), double(batches)
    method = Method(asked, tensors)
    for name in method.learnt:
        tensors[name].requires_grad_()
    out, steps = {}, asked["epochs"] * asked["per_epoch"]
    for step in range(steps):
        loss = method.loss([batches[f"{step}.{v}"] for v in range(asked["views"])], step)
        for name in method.learnt:
            tensors[name].grad = None
        loss.backward()
        if step < asked["frozen"] * asked["per_epoch"]:
            for name in method.learnt:
                if "last_layer" in name:
                    tensors[name].grad = None
        out[f"loss.{step}"] = loss.detach().reshape(1)
        for name in method.learnt:
            if tensors[name].grad is not None:
                out[f"grad.{step}.{name}"] = tensors[name].grad.clone()
        share = step / steps
        method.move(half_cosine(asked["lr"], share), half_cosine(asked["decay"], share))
        method.follow(share)
    out |= {f"after.{name}": tensor.detach() for name, tensor in tensors.items()}
    save_file({n: t.flatten().float().contiguous() for n, t in out.items()}, answers)


main()
