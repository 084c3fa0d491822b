"""`occlude-train whiten` and `knn` against numpy, from the embeddings that `occlude-train embed` prints.

`whiten RAW WHITENED CHECKPOINT DIM`: principal components by a singular value decomposition of the centred embeddings
in RAW (DIM 0: the mean alone), against the tensors of CHECKPOINT and the embeddings in WHITENED.
`knn TRAIN VAL DIM K`: top-1 of weighted nearest neighbours, and the mean cosine, before and after whitening by TRAIN.
`load BARE KEPT`: what a strict loader of PyTorch says of a `.pth` without and with the whitening."""

import json
import sys

import numpy as np

SHRINKAGE = 0.1


def read(path):
    lines = [json.loads(line) for line in open(path)]
    classes = [line["path"].split("/")[-2] for line in lines]
    # As single precision, which is what was printed.
    values = np.array([line["embedding"] for line in lines], np.float32).astype(np.float64)
    return values, np.array(classes), [line["path"] for line in lines]


def fitted(x, dim):
    """Matrix and mean."""
    mean = x.mean(0)
    if not dim:
        return np.eye(x.shape[1]), mean
    _, singular, rows = np.linalg.svd(x - mean, full_matrices=False)
    variance = singular**2 / (len(x) - 1)
    ridge = SHRINKAGE * variance.sum() / x.shape[1]
    return rows[:dim] / np.sqrt(variance[:dim] + ridge)[:, None], mean


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def spread(x):
    cosines = unit(x) @ unit(x).T
    return (cosines.sum() - np.trace(cosines)) / (len(x) * (len(x) - 1))


def top1(train, labels, val, truth, k):
    similarity = unit(val) @ unit(train).T
    right = 0
    for row, own in zip(similarity, truth):
        near = np.argsort(-row, kind="stable")[:k]
        votes = {c: np.exp(row[near][labels[near] == c] / 0.07).sum() for c in sorted(set(labels))}
        right += max(votes, key=votes.get) == own
    return right / len(val)


def whiten(raw, whitened, checkpoint, dim):
    from safetensors.numpy import load_file

    x, _, names = read(raw)
    y, _, again = read(whitened)
    assert names == again
    matrix, mean = fitted(x, int(dim))
    expected = (x - mean) @ matrix.T
    # The sign of a component is free.
    sign = np.sign((expected * y).sum(0)) if int(dim) else np.ones(y.shape[1])
    tensors = load_file(checkpoint)
    bias = tensors["whiten.bias"]
    result = {"embedding": np.abs(expected * sign - y).max(), "bias": np.abs(sign * (-matrix @ mean) - bias).max()}
    if int(dim):
        weight = tensors["whiten.weight"]
        result["weight"] = np.abs(matrix * sign[:, None] - weight).max() / np.abs(weight).max()
        result["largest"] = bool((weight[np.arange(len(weight)), np.abs(weight).argmax(1)] > 0).all())
    else:
        assert "whiten.weight" not in tensors
    result["cosines"] = np.abs(unit(expected) @ unit(expected).T - unit(y) @ unit(y).T).max()
    return {key: float(value) for key, value in result.items()} | {"spread": [spread(x), spread(y)]}


def knn(train, val, dim, k):
    x, labels, _ = read(train)
    v, truth, _ = read(val)
    matrix, mean = fitted(x, int(dim))
    after = lambda x: (x - mean) @ matrix.T
    return {
        "checkpoint": [top1(x, labels, v, truth, int(k)), spread(v)],
        "checkpoint-whitened": [top1(after(x), labels, after(v), truth, int(k)), spread(after(v))],
    }


def load(bare, kept):
    import torch
    import torchvision

    def loads(path):
        net = torchvision.models.resnet18()
        net.fc = torch.nn.Identity()
        state = torch.load(path, weights_only=True)
        found = net.load_state_dict(state, strict=False)
        return found.missing_keys, found.unexpected_keys

    return [loads(bare), loads(kept)]


what, *rest = sys.argv[1:]
print(json.dumps({"whiten": whiten, "knn": knn, "load": load}[what](*rest)))
