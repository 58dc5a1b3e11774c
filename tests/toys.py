"""Small models and what several tests need of them."""

from __future__ import annotations

from torch import nn

# Settings that make a measurement quick; one that is not here is quick as it comes.
QUICK: dict[str, dict[str, object]] = {
    "adversarial_accuracy": {"steps": 2},
    "band_attribution": {"permutations": 2},
    "calibration": {"resamples": 10},
    "corruption_accuracy": {"severities": (1, 3)},
    "fourier_heatmap": {"crop": 3},
}


def classifier(channels: int = 3, classes: int = 4, width: int = 8) -> nn.Sequential:
    """A small network with random weights; seed torch before."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


class Tally(dict):
    """Counts that a measurement does not put back, as it does with plain attributes.

    Of a class of its own, it is an object to the isolation, and what happens inside it stays.
    """


class Log(list):
    """A list that a measurement does not put back, for the same reason."""
