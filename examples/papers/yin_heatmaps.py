"""Training on Gaussian noise or on attacks trades robustness at low frequencies for high ones.

Error under Fourier noise of norm 4 in every direction, of networks trained naturally, with
Gaussian noise and against PGD.
"""

from dataclasses import dataclass

import numpy as np
import torch

from hfc_probe import Every, FourierHeatmap

from .claims import Claim
from .figures import new_figure
from .training import FIVE, Training, against_pgd, train

SOURCE = "Yin et al., NeurIPS 2019, Figure 3"
DIFFERS = "The paper has a Wide ResNet and augments with flips and crops. Before these settings, "
DIFFERS += "4,000 images and 6 epochs were tried with one seed, which left all four claims open."
KINDS = ("natural", "gaussian", "adversarial")
LOW, HIGH = 4, 12  # cycles/image: up to the first is low, from the second on high


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None  # noise is bounded in pixel space
    sigma: float = 0.1
    epsilon: float = 8 / 255
    steps: int = 7
    stride: int = 1
    norm: float = 4.0
    looked_at: int = 1000  # test images


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=3, batch_size=32, learning_rate=5e-3, train_images=512,
        test_images=256, epsilon=0.1, steps=2, sigma=0.2, stride=4, looked_at=256, seeds=(0,),
        planted=(("high_strength", 1.5), ("classes", 4)),
    ),
    "small": Setting(
        network="cnn", epochs=8, batch_size=50, learning_rate=2e-3, train_images=8000,
        test_images=1000, steps=3, stride=2, looked_at=500, seeds=FIVE,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    *(
        Claim(f"{text} makes the error at high frequencies smaller",
              "natural/high", f"{kind}/high", "smaller, by eye")
        for kind, text in (("gaussian", "Gaussian noise"), ("adversarial", "PGD"))
    ),
    *(
        Claim(f"{text} makes the error at low frequencies larger",
              f"{kind}/low", "natural/low", "larger, by eye")
        for kind, text in (("gaussian", "Gaussian noise"), ("adversarial", "PGD"))
    ),
)  # fmt: skip


def trainings(setting):
    return 3 + setting.steps


def run(setting, data, seed, folder):
    def noisy(model, images, targets):
        return (images + setting.sigma * torch.randn_like(images)).clamp(0, 1), targets

    changes = (None, noisy, against_pgd(setting.epsilon, setting.steps))
    measure = FourierHeatmap(setting.norm, setting.looked_at, stride=setting.stride)
    numbers = {}
    for name, change in zip(KINDS, changes, strict=True):
        trained = train(
            setting, data.train, seed, folder / name, change=change,
            watch={"test": data.test}, measurements={measure: Every(epochs=setting.epochs)},
        )  # fmt: skip
        result = trained.results["test/fourier_heatmap"]
        i, j = result.frequencies()
        distance = np.hypot(i[:, None], j[None])
        parts = {"low": (distance > 0) & (distance <= LOW), "high": distance >= HIGH}
        # The mean of the cells' bounds: the cells look at the same images, so that averaging
        # over cells is not counted as more images.
        maps = (result.error, result.lower, result.upper)
        for part, cells in parts.items():
            numbers[f"{name}/{part}"] = [float(each[cells].mean()) for each in maps]
        numbers |= trained.numbers(name) | {f"{name}/map": result.error}
        numbers["extent"] = [float(i[0]), float(i[-1])]
    return numbers


def figure(runs):
    out = new_figure(10, 3.8)
    low, high = runs[0]["extent"]
    step = (high - low) / (len(runs[0]["natural/map"]) - 1) / 2
    maps = {name: 100 * np.mean([run[f"{name}/map"] for run in runs], 0) for name in KINDS}
    ends = dict(zip(("vmin", "vmax"), np.quantile(list(maps.values()), (0, 1)), strict=True))
    panels = out.subplots(1, 3, sharey=True)
    for axes, (name, error) in zip(panels, maps.items(), strict=True):
        extent = (low - step, high + step) * 2
        picture = axes.imshow(error, "viridis", **ends, origin="lower", extent=extent)
        clean = np.mean([run[f"{name}/test/hfc_heatmap/4.0/clean_error"][0] for run in runs])
        axes.set_title(f"{name}: {100 * clean:.0f} % error without noise", fontsize=10)
        axes.set_xlabel("j in cycles/image")
    panels[0].set_ylabel("i in cycles/image")
    out.colorbar(picture, ax=panels, pad=0.02).set_label("error on test images in %")
    return out
