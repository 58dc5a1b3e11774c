"""Adversarial training makes the first layer's kernels smoother.

The smoothness of each kernel, with natural and with PGD training, as trained and smoothed by
ρ = 1. The paper compares the kernels by eye.
"""

from dataclasses import dataclass

import numpy as np
import torch

from hfc_probe import Every, FrequencyAccuracy, KernelSpectra, kernels

from .claims import Claim, mean_interval
from .figures import bare, new_figure
from .training import Training, against_pgd, train

SOURCE = "Wang et al., CVPR 2020, Figure 7"
DIFFERS = "The interval is over kernels."
RHO = 1.0


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None  # the attack is bounded in pixel space
    epsilon: float = 8 / 255
    steps: int = 7


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=3, batch_size=32, learning_rate=5e-3, train_images=512,
        test_images=128, epsilon=0.1, steps=2, seeds=(0,),
        planted=(("high_strength", 1.5), ("classes", 4)),
    ),
    "small": Setting(
        network="cnn", epochs=8, batch_size=50, learning_rate=2e-3, train_images=4000,
        test_images=1000, steps=5,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    Claim(
        "Kernels are smoother after adversarial training",
        "adversarial/smoothness", "natural/smoothness", "smoother, by eye", percent=False,
    ),
    Claim(
        "Smoothing by ρ = 1 makes natural kernels smoother than adversarial training does",
        "natural smoothed/smoothness", "adversarial/smoothness", "not compared", percent=False,
    ),
)  # fmt: skip


def trainings(setting):
    return 2 + setting.steps


def run(setting, data, seed, folder):
    numbers, last = {}, Every(epochs=setting.epochs)
    attacked = against_pgd(setting.epsilon, setting.steps)
    for name, change in (("natural", None), ("adversarial", attacked)):
        trained = train(
            setting, data.train, seed, folder / name,
            watch={"test": data.test},
            measurements={KernelSpectra(): Every(epochs=1), FrequencyAccuracy(): last},
            change=change,
        )  # fmt: skip
        weight = torch.from_numpy(trained.results["kernel_spectra"].kernels)
        numbers |= trained.numbers(name)
        for which, w in ((name, weight), (f"{name} smoothed", kernels.smooth(weight, RHO))):
            numbers[f"{which}/smoothness"] = mean_interval(kernels.smoothness(w).numpy())
            numbers[f"{which}/kernels"] = w.numpy()
    return numbers


def figure(runs):
    names = [name.removesuffix("/kernels") for name in runs[0] if name.endswith("/kernels")]
    out = new_figure(11, 1.9 * len(names))
    for axes, name in zip(np.ravel(out.subplots(len(names), 1)), names, strict=True):
        weight = runs[0][f"{name}/kernels"][:16]  # a row per channel, as the paper's
        weight = weight / np.abs(weight).max((1, 2, 3), keepdims=True)
        tiles = np.pad(weight, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
        axes.imshow(np.vstack([np.hstack(tiles[:, c]) for c in range(tiles.shape[1])]), "gray")
        bare(axes)
        rows = "RGB" if tiles.shape[1] == 3 else ""
        axes.set_yticks([(k + 0.5) * tiles.shape[2] - 1 for k in range(len(rows))], list(rows))
        axes.tick_params("y", length=0)
        mean = np.mean([run[f"{name}/smoothness"][0] for run in runs])
        axes.set_title(
            f"{name}{f', ρ = {RHO:g}' if 'smoothed' in name else ''}: smoothness {mean:.3f}"
        )
    return out
