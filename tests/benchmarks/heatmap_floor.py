"""What error rates alone allow a later map: linear filters that know how the true map moves.

    python tests/benchmarks/heatmap_floor.py FOLDER [--trainings vgg_adam,…] [--share 0.004]

FOLDER holds what truth_maps.py wrote. A Kalman filter over the cells is given the covariance of
each epoch's true increments (smooth over the plane, smooth in distance from DC, common to all cells
and of each cell alone, in the amounts that fit that increment best) and as many observations of
right or wrong as the passes allow, spread evenly. Its RMSE follows from covariances, without
simulation. One filter goes on from a first map of 2 %, one is told the last map exactly; each
observes images of which nothing is known, or images whose effect common to all cells is known. An
estimator that reads margins can do better than a filter of right and wrong.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from heatmap_memory import HELD_OUT, TUNED
from heatmap_oracle import Truth
from numpy.typing import NDArray

from hfc_probe.measurements.fourier_heatmap.design import Design

Floats = NDArray[np.float64]
FIRST = 0.02


def kernels(truth: Truth) -> list[Floats]:
    """Correlations over the cells that an increment may have."""
    positions = np.array(truth.directions, float)
    count, total = truth.patterns.shape
    nothing = np.zeros(total, np.int64)
    plane = Design(
        positions, (32.0, 32.0), (32.0, 32.0), truth.patterns, nothing, np.zeros(total)
    ).correlation
    distance = np.log1p(np.hypot(*positions.T))
    rings = np.exp(-((distance[:, None] - distance) ** 2) / (2 * 0.3**2))
    return [np.ones((count, count)), rings, plane, np.eye(count)]


def covariance(move: Floats, parts: list[Floats]) -> Floats:
    """The sum of kernels, none of them negative, that is closest to the outer square of a move."""
    products = np.array([[(a * b).sum() for b in parts] for a in parts])
    aim = np.array([move @ part @ move for part in parts])
    best, least = np.zeros(len(parts)), 0.0
    for size in range(1, len(parts) + 1):
        for some in map(list, itertools.combinations(range(len(parts)), size)):
            amounts = np.linalg.solve(products[np.ix_(some, some)], aim[some])
            if (amounts >= 0).all() and (off := -float(amounts @ aim[some])) < least:
                best, least = np.zeros(len(parts)), off
                best[some] = amounts
    found: Floats = sum(a * part for a, part in zip(best, parts, strict=True))
    return found + 1e-7 * np.eye(len(move))


def variances(wrong: Floats) -> tuple[Floats, Floats]:
    """Of one observation of each cell: of any image, and of one whose logit is known up to that."""
    rate = wrong.mean(1)
    own = np.clip(wrong.mean(0), 0.5 / len(wrong), 1 - 0.5 / len(wrong))
    image, cell = np.log(own / (1 - own)), np.zeros(len(wrong))
    for _ in range(8):  # Newton steps of a logistic model with an effect of each, the images' small
        for effect, axis, shrink in ((cell, 1, 1e-3), (image, 0, 0.02)):
            p = 1 / (1 + np.exp(-(image + cell[:, None])))
            effect += ((wrong - p).sum(axis) - shrink * effect) / ((p * (1 - p)).sum(axis) + shrink)
    p = 1 / (1 + np.exp(-(image + cell[:, None])))
    return rate * (1 - rate), (p * (1 - p)).mean(1)


def observed(prior: Floats, noise: Floats) -> Floats:
    """The covariance that observations leave of a prior one."""
    found: Floats = prior - prior @ np.linalg.solve(prior + np.diag(noise), prior)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trainings", default=",".join(TUNED + HELD_OUT))
    parser.add_argument("--share", type=float, default=0.004, help="of the exhaustive passes")
    options = parser.parse_args()
    print("| training | map moves | going on | images known | last map known | both |")
    print("|---|---|---|---|---|---|")
    for name in options.trainings.split(","):
        truth = Truth(options.folder / f"{name}.npz")
        parts, total = kernels(truth), len(truth.targets)
        whole: list[list[float]] = []
        held: list[Floats] = []
        for epoch, error in enumerate(truth.error):
            share = options.share if epoch else FIRST
            each = (share * truth.exhaustive() - total) / len(error)
            noises = [v / each for v in variances((truth.margins[epoch] < 0).astype(float))]
            if not epoch:
                prior = covariance(error - error.mean(), parts) + 0.05
                held = [observed(prior, noise) for noise in noises]
                continue
            move = covariance(error - truth.error[epoch - 1], parts)
            held = [observed(past + move, n) for past, n in zip(held, noises, strict=True)]
            left = [*held, *(observed(move, noise) for noise in noises)]
            moved = float(np.sqrt(((error - truth.error[epoch - 1]) ** 2).mean()))
            whole.append([moved, *(float(np.sqrt(np.diag(one).mean())) for one in left)])
        mean = np.sqrt((np.array(whole) ** 2).mean(0))
        rows = [(name, mean), *((f"epoch {k}", row) for k, row in enumerate(whole, 2))]
        for what, row in rows:
            print(f"| {what} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)


if __name__ == "__main__":
    main()
