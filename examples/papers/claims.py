"""What a paper claims, and whether our numbers agree: one interval for all recipes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

AGREES, DISAGREES, OPEN = "agrees", "disagrees", "cannot be told"

# What one run gives, by name: [value, lower, upper] or [value] for a number, None for one that
# it did not reach, a list of numbers under "curves/…", a NumPy array for what the figure alone
# needs.
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """One number is larger than another.

    Args:
        text: the claim in one sentence.
        larger, smaller: names of two of a run's numbers; `smaller` may be a number itself.
        paper: what the paper reports of the two.
        percent: whether the numbers are proportions.
    """

    text: str
    larger: str
    smaller: str | float
    paper: str
    percent: bool = True


@dataclass(frozen=True)
class Verdict:
    """A claim, the means over seeds, the interval of their difference, and what follows."""

    claim: Claim
    larger: float
    smaller: float
    lower: float
    upper: float
    seeds: int

    @property
    def verdict(self) -> str:
        if self.lower > 0:
            return AGREES
        return DISAGREES if self.upper < 0 else OPEN

    @property
    def ours(self) -> str:
        """Both numbers, their difference and its interval, as the table shows them."""
        if math.isnan(self.lower):
            return "not reached"
        scale, unit = (100, " %") if self.claim.percent else (1, "")
        a, b, low, high = (
            f"{scale * x:.3g}" for x in (self.larger, self.smaller, self.lower, self.upper)
        )
        gap = f"{scale * (self.larger - self.smaller):.3g}"
        return f"{a}{unit} against {b}{unit}: {gap} [{low}, {high}]"


def judge(claim: Claim, runs: Sequence[Numbers]) -> Verdict:
    """The verdict on a claim from one run per seed.

    *agrees* if the whole 95 % interval of `larger − smaller` lies above 0, *disagrees* if it lies
    below, otherwise *cannot be told*, as also if a run did not reach one of the numbers.
    """
    first = [_number(run, claim.larger) for run in runs]
    second = [_number(run, claim.smaller) for run in runs]
    lower, upper = interval(first, second)
    means = (float(np.mean([x[0] for x in numbers])) for numbers in (first, second))
    return Verdict(claim, *means, lower=lower, upper=upper, seeds=len(runs))


def interval(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]
) -> tuple[float, float]:
    """95 % interval of the mean of `first − second` over seeds and images.

    Two sources of error are added in quadrature:

    - seeds: Student's t-interval of the differences, paired, since within a seed both runs have
      the same images, the same initial weights and the same order of batches. With one seed it
      is unknown and left out, and the table says "1 seed"; the interval is infinite if the
      numbers have no error of images either;
    - images (for kernels: kernels): the interval of each number, such as Wilson's of an
      accuracy, as if the two were independent (Newcombe 1998, method 10), averaged over
      seeds and not divided by their number, since seeds may share images.

    Args:
        first, second: per seed `[value, lower, upper]`, or `[value]` if it has no error.
    """
    a, b = (np.array([_bounds(x) for x in numbers], float) for numbers in (first, second))
    gaps = a[:, 0] - b[:, 0]
    below = np.hypot(a[:, 0] - a[:, 1], b[:, 2] - b[:, 0]).mean()
    above = np.hypot(a[:, 2] - a[:, 0], b[:, 0] - b[:, 1]).mean()
    n = len(gaps)
    if n > 1:
        seeds = stats.t.ppf(0.975, n - 1) * gaps.std(ddof=1) / math.sqrt(n)
    else:
        seeds = 0.0 if max(len(x) for x in (*first, *second)) == 3 else math.inf
    mean = gaps.mean()
    return float(mean - math.hypot(seeds, below)), float(mean + math.hypot(seeds, above))


def difference(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """`[value, lower, upper]` of the difference of two numbers of one run."""
    return [first[0] - second[0], *interval([first], [second])]


def mean_interval(values: np.ndarray) -> list[float]:
    """`[mean, lower, upper]`: the t-interval of a mean over kernels, say."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return [float(np.mean(values)), float(np.mean(values) - half), float(np.mean(values) + half)]


def _bounds(number: Sequence[float]) -> Sequence[float]:
    return number if len(number) == 3 else (number[0],) * 3


def _number(run: Numbers, name: str | float) -> Sequence[float]:
    number = run[name] if isinstance(name, str) else [name]
    return [math.nan] if number is None else number
