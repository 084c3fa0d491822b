"""Recall at k and mean average precision with NumPy, by sorting everything. Reads {queries, gallery, relevant, same, k} on
standard input, writes {recall, map} in per cent."""
import json
import sys

import numpy as np

task = json.load(sys.stdin)


def rows(name):
    vectors = np.array(task[name], dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


cosines = rows("queries") @ rows("gallery").T
firsts, precisions = [], []
for scores, relevant, same in zip(cosines, task["relevant"], task["same"]):
    order = np.argsort(-scores, kind="stable")
    order = order[order != (-1 if same is None else same)]
    hits = np.isin(order, relevant)
    if not hits.any():
        continue
    places = np.flatnonzero(hits) + 1
    firsts.append(places[0])
    precisions.append((np.arange(1, len(places) + 1) / places).mean())
recall = [100 * float(np.mean(np.array(firsts) <= k)) for k in task["k"]]
json.dump({"recall": recall, "map": 100 * float(np.mean(precisions)), "judged": len(firsts)}, sys.stdout)
