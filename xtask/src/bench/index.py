"""The peer of the benchmark `index`: torchvision's ImageFolder over a tree.

Arguments: the folder. Prints seconds, pictures, and the bytes by which the largest resident set grew."""

import json
import resource
import sys
import time

from torchvision.datasets import ImageFolder


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


before, began = peak(), time.perf_counter()
data = ImageFolder(sys.argv[1])
seconds = time.perf_counter() - began
print(json.dumps({"seconds": seconds, "pictures": len(data), "peak": peak() - before}))
