"""A network trained on LFC(r) alone classifies original images, one trained on HFC(r) hardly.

Every component is divided by its maximum for training; the original test images are fed as they
are.
"""

from dataclasses import dataclass

import numpy as np

from hfc_probe import Every, FrequencyAccuracy
from hfc_probe.transforms import HighPass, LowPass

from .claims import Claim
from .figures import COLOURS, new_figure
from .training import Training, train

SOURCE = "Wang et al., CVPR 2020, Table 1"
DIFFERS = ""
PAPER = {4: (0.62, 0.20), 8: (0.72, 0.09), 12: (0.75, 0.10), 16: (0.77, 0.13)}
TEST = "test/hfc_accuracy/original"


@dataclass(frozen=True)
class Setting(Training):
    radii: tuple[int, ...] = tuple(PAPER)


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=2, batch_size=16, learning_rate=3e-3, train_images=192,
        test_images=96, planted=(("band", "low"), ("classes", 4), ("strength", 6.0)),
        seeds=(0,),
    ),
    "small": Setting(
        network="cnn", epochs=6, batch_size=50, learning_rate=2e-3, train_images=4000,
        test_images=2000,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    *(
        Claim(
            f"Trained on LFC({r}), a network is better on original images than trained on HFC({r})",
            f"lfc_r{r:02d}/{TEST}", f"hfc_r{r:02d}/{TEST}",
            f"{100 * low:.0f} % against {100 * high:.0f} %",
        )
        for r, (low, high) in PAPER.items()
    ),
    Claim(
        "LFC(16) is enough for a better network than LFC(4)",
        f"lfc_r16/{TEST}", f"lfc_r04/{TEST}", "77 % against 62 %",
    ),
)  # fmt: skip


def trainings(setting):
    return 2 * len(setting.radii)


def run(setting, data, seed, folder):
    numbers = {}
    for r in setting.radii:
        low = LowPass(r, closed=False, rescale="max")
        high = HighPass(r, closed=False, rescale="max", background=None)
        for name, keep in ((f"lfc_r{r:02d}", low), (f"hfc_r{r:02d}", high)):
            trained = train(
                setting, data.train, seed, folder / name,
                watch={"test": data.test},
                measurements={FrequencyAccuracy((r,)): Every(epochs=setting.epochs)},
                change=lambda model, images, targets, keep=keep: (keep(images), targets),
            )  # fmt: skip
            numbers |= trained.numbers(name)
    return numbers


def figure(runs):
    out = new_figure(6, 4)
    axes = out.subplots()
    for k, part in enumerate(("lfc", "hfc")):
        ours = 100 * np.array([[run[f"{part}_r{r:02d}/{TEST}"][0] for r in PAPER] for run in runs])
        at = np.arange(len(PAPER)) + 0.36 * k
        colour = COLOURS[(1, 5)[k]]
        axes.bar(at, ours.mean(0), 0.34, color=colour, label=f"trained on {part.upper()}(r)")
        axes.vlines(at, ours.min(0), ours.max(0), color="black")
        axes.plot(at, [100 * pair[k] for pair in PAPER.values()], "D", color="black", mfc="white",
                  label="the paper" if k else None)  # fmt: skip
    axes.set_xticks(np.arange(len(PAPER)) + 0.18, PAPER)
    axes.set(xlabel="radius r in cycles/image", ylabel="accuracy on original test images in %")
    axes.set_ylim(0, 102)
    out.legend(frameon=False, ncols=3, loc="outside upper center")
    return out
