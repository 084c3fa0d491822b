"""Writes `stats.json`, what the tests of `stats.rs` are held against: `python stats.py > stats.json`, with numpy and scipy."""

import json

import numpy as np
from scipy import stats


def seeds(values):
    """Mean, deviation and Student's interval of the mean."""
    values = np.asarray(values, dtype=np.float64)
    case = {"values": values.tolist(), "mean": values.mean(), "deviation": None, "interval": None}
    if len(values) > 1:
        case["deviation"] = values.std(ddof=1)
        interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        case["interval"] = [interval.low, interval.high]
    return case


def pictures(losses, ties, gains):
    """The percentile bootstrap of the mean of -1, 0 and 1."""
    values = np.repeat([-1.0, 0.0, 1.0], [losses, ties, gains])
    found = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", batch=500, random_state=np.random.default_rng(0))
    return {"counts": [losses, ties, gains], "interval": list(found.confidence_interval)}


draws = np.random.default_rng(7)
print(json.dumps({
    "seeds": [
        seeds([41.25]),
        seeds([1.5, 2.25]),
        seeds([0.5, -0.75, 1.0]),
        seeds([2.1, 1.7, 2.6, 2.2, 1.9]),
        *(seeds(draws.normal(0.4, 1.1, count).round(3)) for count in (4, 5, 10, 31)),
    ],
    "pictures": [pictures(120, 2600, 173), pictures(3, 90, 7), pictures(250, 400, 350)],
}, indent=1))
