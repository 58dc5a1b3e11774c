"""Coverage of the intervals of an audit, in a simulation with a known AP.

Ten classes, some rare, with a share of their objects found and false detections among them, for an
original and a variant that finds less. The AP that intervals have to hold is that of as many images
that it does not change any more. Run as

    python tests/benchmarks/detection_coverage.py [--images 50 200 1000] [--draws 400]
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np

from hfc_probe.detection.evaluation import ClassMatches
from hfc_probe.detection.resampling import half_samples, interval_of, resampled

CLASSES, THRESHOLDS = 10, np.linspace(0.5, 0.95, 10)
FREQUENCY = np.geomspace(1.0, 0.08, CLASSES)  # objects an image
FOUND = {"original": 0.75, "variant": 0.6}  # share of objects, at any IoU of 0.5 or more
POPULATION = 40_000


class Coverage(NamedTuple):
    """Shares of intervals that hold the truth, and the mean half-width of AP's.

    Attributes:
        own: of AP, AP50 and AP75 of the original.
        difference: of their differences, variant less original.
        lost: the same for a variant on which nothing is found.
    """

    own: list[float]
    difference: list[float]
    lost: list[float]
    half: float


def simulated(images: int, rng: np.random.Generator) -> dict[str, tuple[ClassMatches, ...]]:
    """Matches of some images, of the original and of the variant; objects are the same."""
    out: dict[str, list[ClassMatches]] = {name: [] for name in FOUND}
    difficulty = rng.random(images)  # an image hard for one class is hard for all
    for frequency in FREQUENCY:
        objects = rng.poisson(frequency, images)
        owner = np.repeat(np.arange(images), objects)
        luck, overlap = rng.random(len(owner)), rng.uniform(0.4, 1.0, len(owner))
        ease = 1.2 - 0.4 * difficulty[owner]
        false = rng.poisson(0.6 * frequency, images)
        wrong = np.repeat(np.arange(images), false)
        lower = rng.beta(2, 4, len(wrong))
        for name, share in FOUND.items():
            seen = luck < share * ease
            score = np.clip(rng.beta(4, 2, len(owner)) * ease, 0, 1)[seen]
            fit = overlap[seen] if name == "original" else overlap[seen] - 0.04
            hit = np.concatenate(
                [fit[None] >= THRESHOLDS[:, None], np.zeros((10, len(wrong)), bool)], 1
            )
            scores = np.concatenate([score, lower])
            place = np.concatenate([owner[seen], wrong])
            rank = np.argsort(-scores, kind="stable")
            counts = np.ones_like(hit)
            out[name].append(ClassMatches(place[rank], hit[:, rank], counts[:, rank], objects))
    return {name: tuple(by_class) for name, by_class in out.items()}


def metrics(by_class: tuple[ClassMatches, ...]) -> np.ndarray:
    """AP, AP50 and AP75, ``(3,)``."""
    return resampled(by_class, np.ones((1, len(by_class[0].objects))))[0]


def known() -> dict[str, np.ndarray]:
    """AP of a population."""
    return {k: metrics(v) for k, v in simulated(POPULATION, np.random.default_rng(0)).items()}


def coverage(
    images: int, draws: int, truth: dict[str, np.ndarray], replicates: int = 900
) -> Coverage:
    """Coverage of 95 % intervals from that many images, over simulated data sets."""
    held, half = [], []
    for seed in range(draws):
        found = simulated(images, np.random.default_rng((1, seed)))
        samples = half_samples(images, replicates, seed)
        drawn = {
            name: [
                metrics(by_class),
                *(resampled(by_class, s.reshape(-1, images)).reshape(*s.shape[:-1], 3)
                  for s in samples),
            ]
            for name, by_class in found.items()
        }  # fmt: skip
        original, variant = drawn["original"], drawn["variant"]
        less = [v - o for v, o in zip(variant, original, strict=True)]
        bounds = [
            interval_of(*original),
            interval_of(*less, change=True),
            interval_of(*(-o for o in original), change=True),
        ]
        known = truth["original"], truth["variant"] - truth["original"], -truth["original"]
        held.append([(b[:, 0] <= t) & (t <= b[:, 1]) for b, t in zip(bounds, known, strict=True)])
        half.append(np.diff(bounds[0][0])[0] / 2)
    return Coverage(*np.mean(held, axis=0).tolist(), float(np.mean(half)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--draws", type=int, default=400)
    arguments = parser.parse_args()
    truth = known()
    print(f"AP {truth['original'][0]:.3f}, of the variant {truth['variant'][0]:.3f}")
    what = ("AP, AP50, AP75", "their changes", "changes to nothing found", "half-width of AP")
    print("| images | " + " | ".join(what) + " |\n|---|---|---|---|---|")
    for images in arguments.images:
        *shares, half = coverage(images, arguments.draws, truth)
        cells = " | ".join(", ".join(f"{one:.3f}" for one in three) for three in shares)
        print(f"| {images} | {cells} | {half:.3f} |", flush=True)


if __name__ == "__main__":
    main()
