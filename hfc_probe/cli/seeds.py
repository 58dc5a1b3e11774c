"""Runs of several seeds as one, with the mean of each number and its spread."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..ground.errors import InputError
from .comparison import compare
from .stored import StoredRun

# Ends such as "_seed3", "/seed=3" and "-s3". The tab's names.js has the same pattern.
SEED = re.compile(r"[\W_]*(?:seed|(?<![a-z0-9])s)[\W_]*\d+$", re.IGNORECASE | re.ASCII)
# Student's t at 97.5 % for 1, 2, … degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def by_seed(names: Sequence[str]) -> dict[str, list[str]]:
    """Names of runs that differ in the seed at their end alone, by what they share, in order.

    >>> by_seed(["low_seed0", "low_seed1", "high"])
    {'low': ['low_seed0', 'low_seed1'], 'high': ['high']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(SEED.sub("", name) or name, []).append(name)
    return groups


def mean_of(name: str, runs: Sequence[StoredRun]) -> StoredRun:
    """Runs of several seeds as one run, of the numbers that all have; one run stays as it is.

    A number is the mean over the runs. Its 95 % interval adds in quadrature Student's t-interval
    over the runs and the mean half-width of the runs' own intervals, which are of the same images
    or of as many and are therefore not divided by the number of runs.

    Raises:
        InputError: runs that were not measured alike, or no measurement that all have.
    """
    if len(runs) == 1:
        return runs[0]
    for other in runs[1:]:
        differing = [str(one) for one in compare(runs[0], other).differing if one.decisive]
        if differing:
            raise InputError(
                f"report: expected the runs of {name} to be measured alike, got "
                f"{'; '.join(differing)} in {runs[0].name} and {other.name}; measure them again"
            )
    common = [key for key in runs[0].results if all(key in run.results for run in runs)]
    return StoredRun(
        f"{name} ({len(runs)} seeds)", {k: _mean([r.results[k] for r in runs]) for k in common}, {}
    )


def _mean(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, count = results[0], len(results)
    scalars: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    spread: dict[str, float] = {}
    for tag in first["scalars"]:
        values = [result["scalars"].get(tag) for result in results]
        if None in values:
            continue
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        scalars[tag], spread[tag] = mean, deviation
        over_seeds = _T[min(count - 1, len(_T)) - 1] * deviation / math.sqrt(count)
        bounds = [result["intervals"].get(tag) for result in results]
        known = all(pair and None not in pair for pair in bounds)
        below, above = (
            np.mean([abs(v - b[k]) for v, b in zip(values, bounds, strict=True)]) if known else 0.0
            for k in (0, 1)
        )
        intervals[tag] = [
            mean - math.hypot(over_seeds, below),
            mean + math.hypot(over_seeds, above),
        ]
    origins = [result.get("provenance", {}) for result in results]
    alike = {key: v for key, v in origins[0].items() if all(o.get(key) == v for o in origins)}
    alike.pop("images", None)  # outcomes by image are of one run
    caveats = dict.fromkeys(text for one in origins for text in one.get("caveats") or ())
    return {
        **first,
        "scalars": scalars,
        "intervals": intervals,
        "spread": spread,
        "per_image": {},
        "provenance": alike | {"caveats": list(caveats)} if origins[0] else {},
        "summary": f"The mean of {count} seeds; ± is their standard deviation.",
    }
