"""Wall time and peak memory of a command: one run that nobody counts, then RUNS more.

Arguments: RUNS, command... Prints the median seconds and the largest resident set in bytes. A process of its own,
because a child's peak begins at the size of what started it."""

import json
import resource
import subprocess
import sys
import time

runs, command = int(sys.argv[1]), sys.argv[2:]
times = []
for _ in range(runs + 1):
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    times.append(time.perf_counter() - began)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
print(json.dumps({"seconds": sorted(times[1:])[runs // 2], "peak": peak}))
