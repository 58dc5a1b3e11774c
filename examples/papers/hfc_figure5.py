"""BatchNorm and mixup make a network take up more high frequencies, adversarial training fewer.

Accuracy on the test images, on their HFC(4), and the generalisation gap, of a network without
BatchNorm trained plainly, with dropout, with mixup, with BatchNorm and against PGD.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from hfc_probe import Every, FrequencyAccuracy

from .claims import Claim
from .figures import COLOURS, new_figure
from .training import Training, against_pgd, train

SOURCE = "Wang et al., CVPR 2020, Figure 5"
DIFFERS = "The paper draws curves over epochs; here the trained networks are compared, "
DIFFERS += "and HFC is fed on the images' mean."
KINDS = ("vanilla", "dropout", "mixup", "batchnorm", "adversarial")
HFC, TEST, TRAIN = "test/hfc_hfc/r04", "test/hfc_accuracy/original", "train/hfc_accuracy/original"


@dataclass(frozen=True)
class Setting(Training):
    network: str = "plain"
    with_batchnorm: str = "cnn"
    rescale: str | None = None  # the attack is bounded in pixel space
    epsilon: float = 8 / 255
    steps: int = 7
    mixup: float = 0.5


SCALES = {
    "smoke": Setting(
        epochs=5, batch_size=16, learning_rate=3e-3, train_images=384, test_images=192,
        epsilon=0.1, steps=2, planted=(("high_strength", 2.5), ("classes", 4)), seeds=(0,),
    ),
    "small": Setting(
        epochs=8, batch_size=50, learning_rate=1e-3, train_images=4000, test_images=2000,
        measured=2000, steps=3,
    ),
    "paper": Setting(network="resnet18_plain", with_batchnorm="resnet18"),
}  # fmt: skip
CLAIMS = (
    Claim("BatchNorm takes up more HFC", f"batchnorm/{HFC}", f"vanilla/{HFC}", "more"),
    Claim("Mixup takes up more HFC", f"mixup/{HFC}", f"vanilla/{HFC}", "more"),
    Claim("PGD training takes up less HFC", f"vanilla/{HFC}", f"adversarial/{HFC}", "less"),
    Claim(
        "PGD training has a smaller generalisation gap",
        "vanilla/gap", "adversarial/gap", "smaller",
    ),
)  # fmt: skip


def trainings(setting):
    return 5 + setting.steps


def run(setting, data, seed, folder):
    def mixed(model, images, targets):
        share = float(torch.distributions.Beta(setting.mixup, setting.mixup).sample())
        order = torch.randperm(len(images), device=images.device)
        hot = F.one_hot(targets, len(data.classes)).float()
        return tuple(share * x + (1 - share) * x[order] for x in (images, hot))

    kinds = {
        "vanilla": (setting, None),
        "dropout": (replace(setting, network=f"{setting.network}_dropout"), None),
        "mixup": (setting, mixed),
        "batchnorm": (replace(setting, network=setting.with_batchnorm), None),
        "adversarial": (setting, against_pgd(setting.epsilon, setting.steps)),
    }
    measure = FrequencyAccuracy((4,), closed=False, hfc_background="mean")
    numbers = {}
    for name, (own, change) in kinds.items():
        trained = train(
            own, data.train, seed, folder / name, change=change,
            watch={"train": data.train, "test": data.test},
            measurements={measure: Every(epochs=own.epochs)},
        )  # fmt: skip
        numbers |= trained.numbers(name)
        (a, a_low, a_high), (b, b_low, b_high) = (numbers[f"{name}/{s}"] for s in (TRAIN, TEST))
        below, above = math.hypot(a - a_low, b_high - b), math.hypot(a_high - a, b - b_low)
        numbers[f"{name}/gap"] = [a - b, a - b - below, a - b + above]
    return numbers


def figure(runs):
    out = new_figure(8, 4)
    axes = out.subplots()
    shown = ((TEST, "original test images", 0), (HFC, "their HFC(4)", 5), ("gap", "gap", 4))
    for k, (what, label, colour) in enumerate(shown):
        ours = 100 * np.array([[run[f"{name}/{what}"][0] for name in KINDS] for run in runs])
        at = np.arange(len(KINDS)) + 0.27 * (k - 1)
        axes.bar(at, ours.mean(0), 0.26, color=COLOURS[colour], label=label)
        axes.vlines(at, ours.min(0), ours.max(0), color="0.6")
    axes.set_xticks(range(len(KINDS)), KINDS)
    axes.set_ylabel("accuracy, or training minus test, in %")
    out.legend(frameon=False, ncols=3, loc="outside upper center")
    return out
