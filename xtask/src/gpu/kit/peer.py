"""MoCo v2, and MoCo v2 with saliency masks and a hard negative, in PyTorch: what the trainer is measured beside.

`--kind published`: as the papers' code runs, float32 (TF32 in convolutions), the normalisation split as over 8 GPUs, SGD, and
torchvision's augmentation of Pillow's pictures in loader processes. `--kind best`: bfloat16 autocast, channels-last, torch.compile,
decoding and crops in loader processes and everything else of the augmentation in batches on the device, plain batch
normalisation, fused SGD, a moving average in one call. Prints one JSON object."""

import argparse
import copy
import glob
import io
import json
import math
import time

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn
from torchvision.transforms import v2

DIM, MOMENTUM, TEMPERATURE, ALPHA = 128, 0.999, 0.2, 2.0
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SPLITS = 8


class SplitNorm(nn.BatchNorm2d):
    """Batch normalisation of each of `SPLITS` parts of the batch by itself, as that many GPUs would do it."""

    def forward(self, x):
        if not self.training or x.shape[0] % SPLITS:
            return super().forward(x)
        n, c, h, w = x.shape
        parts = x.reshape(n // SPLITS, c * SPLITS, h, w)
        repeat = lambda t: t.repeat(SPLITS)
        mean, var = repeat(self.running_mean), repeat(self.running_var)
        out = F.batch_norm(parts, mean, var, repeat(self.weight), repeat(self.bias), True, self.momentum, self.eps)
        self.running_mean.copy_(mean.view(SPLITS, c).mean(0))
        self.running_var.copy_(var.view(SPLITS, c).mean(0))
        return out.reshape(n, c, h, w)


class Encoder(nn.Module):
    """The network with MoCo v2's head; gives the projection and the last feature map."""

    def __init__(self, arch, split):
        super().__init__()
        norm = SplitNorm if split else nn.BatchNorm2d
        self.net = getattr(torchvision.models, arch)(weights=None, norm_layer=norm)
        width = self.net.fc.in_features
        self.net.fc = nn.Identity()
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, DIM))

    def forward(self, x):
        n = self.net
        x = n.maxpool(n.relu(n.bn1(n.conv1(x))))
        features = n.layer4(n.layer3(n.layer2(n.layer1(x))))
        return F.normalize(self.head(features.mean((2, 3))).float(), dim=1), features


def high_pass(x):
    """A picture less its blurred self."""
    at = torch.arange(-4, 5, device=x.device, dtype=torch.float32)
    weights = torch.exp(-(at**2) / 8)
    weights = (weights / weights.sum()).to(x.dtype)
    rows = F.conv2d(F.pad(x, (4, 4, 0, 0), "reflect"), weights.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
    return x - F.conv2d(F.pad(rows, (0, 0, 4, 4), "reflect"), weights.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)


def masked(x, features, low, high, negative):
    """`x` without a share of the cells, drawn for each picture: of all cells alike, or of the salient ones only."""
    salience = features.float().abs().mean(1)  # (B, h, w)
    salient = salience > salience.mean((1, 2), keepdim=True)
    share = torch.empty(len(x), 1, 1, device=x.device).uniform_(low, high)
    gone = torch.rand_like(salience) < share
    if negative:
        gone &= salient
    return x * (~gone).to(x.dtype).repeat_interleave(x.shape[2] // gone.shape[1], 1).repeat_interleave(
        x.shape[3] // gone.shape[2], 2).unsqueeze(1)


def cells_fit(size):
    """Stage 5 has a cell for each 32 pixels."""
    return size % 32 == 0


class Moco:
    def __init__(self, args):
        best = self.best = args.kind == "best"
        self.device, self.saliency = args.device, args.recipe.startswith("saliency")
        if self.saliency and not cells_fit(args.size):
            raise SystemExit(f"error: saliency needs a side that is a multiple of 32, not {args.size}")
        layout = torch.channels_last if best else torch.contiguous_format
        self.query = Encoder(args.arch, split=not best).to(args.device, memory_format=layout)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.averaged = list(self.key.parameters()), list(self.query.parameters())
        self.queue = F.normalize(torch.randn(DIM, args.queue, device=args.device), dim=0)
        self.at = 0
        fused = {"fused": True} if best else {"foreach": False}
        self.optimizer = torch.optim.SGD(self.query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, **fused)
        fast = torch.compile if args.compile else (lambda function: function)
        self.run_query, self.run_key = fast(self.query), fast(self.key)
        self.high_pass, self.masked = fast(high_pass), fast(masked)
        self.labels = torch.zeros(args.batch, dtype=torch.long, device=args.device)

    def autocast(self):
        # CPUs have bfloat16 convolutions that are slower than float32's
        return torch.autocast(self.device, torch.bfloat16, enabled=self.best and self.device == "cuda")

    @torch.no_grad()
    def keys(self, query, key):
        """The key's projection, the query's input, and the hard negative's projection where there is one."""
        if not self.saliency:
            return self.run_key(key)[0], query, None
        query, key = self.high_pass(query), self.high_pass(key)
        k, features = self.run_key(key)
        _, own = self.run_key(query)
        hard, _ = self.run_key(self.masked(key, features, 0.4, 0.7, negative=True))
        return k, self.masked(query, own, 0.05, 0.25, negative=False), hard

    def step(self, query, key):
        with self.autocast():
            k, x, hard = self.keys(query, key)
            q, _ = self.run_query(x)
        columns = [(q * k).sum(1, keepdim=True)]
        if hard is not None:
            columns.append(ALPHA * (q * hard).sum(1, keepdim=True))
        logits = torch.cat([*columns, q @ self.queue.clone()], 1) / TEMPERATURE
        loss = F.cross_entropy(logits, self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.after(k)
        return loss.detach()

    @torch.no_grad()
    def after(self, k):
        mine, theirs = self.averaged
        if self.best:
            torch._foreach_lerp_(mine, theirs, 1 - MOMENTUM)
        else:
            for a, b in zip(mine, theirs):
                a.data = a.data * MOMENTUM + b.data * (1 - MOMENTUM)
        self.queue[:, self.at:self.at + len(k)] = k.T
        self.at = (self.at + len(k)) % self.queue.shape[1]


class Files(torch.utils.data.Dataset):
    """Two views of each file: whole ones of the published augmentation, or 8-bit crops for the device to go on with."""

    def __init__(self, folder, size, best):
        self.files, self.best = sorted(glob.glob(f"{folder}/*.jpg")), best
        crop = v2.RandomResizedCrop(size, (0.2, 1.0), antialias=True)
        blur = v2.RandomApply([v2.GaussianBlur(max(3, size // 10 // 2 * 2 + 1), (0.1, 2.0))], 0.5)
        published = [
            crop, v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8), v2.RandomGrayscale(0.2), blur,
            v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD),
        ]
        self.view = crop if best else v2.Compose(published)

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with open(self.files[index], "rb") as file:
            data = file.read()
        if self.best:
            try:
                image = torchvision.io.decode_jpeg(
                    torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=torchvision.io.ImageReadMode.RGB)
            except RuntimeError:  # torchvision without its JPEG decoder
                image = v2.functional.pil_to_tensor(Image.open(io.BytesIO(data)).convert("RGB"))
        else:
            image = Image.open(io.BytesIO(data)).convert("RGB")
        return self.view(image), self.view(image)


def colours(n, device):
    """A matrix (n, 3, 3) for each picture: brightness, saturation and hue, or grey; torchvision's strengths."""
    draw = lambda low, high: torch.empty(n, 1, 1, device=device).uniform_(low, high)
    grey = torch.tensor([0.2989, 0.587, 0.114], device=device).expand(3, 3)
    one = torch.eye(3, device=device)
    saturation, angle = draw(0.6, 1.4), draw(-0.1, 0.1) * 2 * math.pi
    to = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], device=device)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.cat([torch.cat([zero + 1, zero, zero], 2), torch.cat([zero, cos, -sin], 2), torch.cat([zero, sin, cos], 2)], 1)
    hue = torch.linalg.inv(to) @ turn @ to
    jittered = draw(0.6, 1.4) * (saturation * one + (1 - saturation) * grey) @ hue
    matrix = torch.where(draw(0, 1) < 0.8, jittered, one)
    return torch.where(draw(0, 1) < 0.2, grey @ matrix, matrix)


def augment(pixels):
    """(B, 3, S, S) of 8-bit crops to normalised views, in batches on the device: colours, blur, mirroring."""
    n, _, side, _ = pixels.shape
    x = pixels.float() / 255
    x = torch.einsum("nij,njhw->nihw", colours(n, x.device), x)
    mean = x.mean((1, 2, 3), keepdim=True)
    contrast = torch.empty(n, 1, 1, 1, device=x.device).uniform_(0.6, 1.4)
    x = (mean + (x - mean) * contrast).clamp(0, 1)
    reach = max(1, side // 20)
    sigma = torch.empty(n, 1, device=x.device).uniform_(0.1, 2.0)
    at = torch.arange(-reach, reach + 1, device=x.device)
    weights = torch.exp(-(at**2) / (2 * sigma**2))
    sharp = (at == 0).float().expand_as(weights)
    weights = torch.where(torch.rand(n, 1, device=x.device) < 0.5, weights / weights.sum(1, keepdim=True), sharp)
    weights = weights.repeat_interleave(3, 0)
    x = F.pad(x, (reach,) * 4, "reflect").view(1, 3 * n, side + 2 * reach, side + 2 * reach)
    x = F.conv2d(x, weights.view(3 * n, 1, 1, -1), groups=3 * n)
    x = F.conv2d(x, weights.view(3 * n, 1, -1, 1), groups=3 * n).view(n, 3, side, side)
    flip = torch.rand(n, 1, 1, 1, device=x.device) < 0.5
    x = torch.where(flip, x.flip(3), x)
    channel = lambda values: torch.tensor(values, device=x.device).view(1, 3, 1, 1)
    return ((x - channel(MEAN)) / channel(STD)).contiguous(memory_format=torch.channels_last)


def batches(args):
    """Endless batches of two views on the device, as the kind has them before its augmentation."""
    shape = (args.batch, 3, args.size, args.size)
    if args.data is None:
        if args.kind == "best":
            views = [torch.randint(0, 256, shape, dtype=torch.uint8, device=args.device) for _ in range(2)]
        else:
            views = [torch.randn(shape, device=args.device) for _ in range(2)]
        while True:
            yield views
    dataset = Files(args.data, args.size, args.kind == "best")
    loader = torch.utils.data.DataLoader(
        dataset, args.batch, shuffle=True, drop_last=True, num_workers=args.workers, pin_memory=args.device == "cuda",
        persistent_workers=True)
    while True:
        for views in loader:
            yield [v.to(args.device, non_blocking=True) for v in views]


def measure(args, moco):
    """Images a second of the steps behind the warm-up, and the share of the time spent waiting for batches."""
    cuda = args.device == "cuda"
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    change = (torch.compile(augment) if args.compile else augment) if args.kind == "best" else (lambda view: view)
    source, waited, losses = batches(args), 0.0, []
    for number in range(args.warm + args.steps):
        if number == args.warm:
            wait()
            began, waited = time.perf_counter(), 0.0
            if cuda:
                torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        views = next(source)
        waited += time.perf_counter() - start
        with torch.no_grad():
            views = [change(view) for view in views]
        losses.append(moco.step(*views))
    wait()
    seconds = time.perf_counter() - began
    losses = torch.stack(losses).tolist()
    if not all(math.isfinite(loss) for loss in losses):
        raise SystemExit(f"error: a loss is not a number: {losses}")
    return {
        "images_per_second": args.steps * args.batch / seconds, "wait_share": waited / seconds,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "first_loss": losses[0], "last_loss": losses[-1],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["published", "best"], required=True)
    parser.add_argument("--recipe", choices=["moco-v2", "saliency-moco"], required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--arch", required=True)
    for name in ("size", "batch", "steps", "warm", "queue", "workers"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--data", help="folder of JPEG files; without it, input lies on the device")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    note = None
    try:
        found = measure(args, Moco(args))
    except Exception as error:
        if not args.compile:
            raise
        # a machine without a C compiler cannot compile; the figure without is better than none, and says so
        note, args.compile = f"torch.compile failed ({type(error).__name__}), measured without", False
        found = measure(args, Moco(args))
    print(json.dumps({**found, "compiled": args.compile, "note": note}))


if __name__ == "__main__":
    main()
