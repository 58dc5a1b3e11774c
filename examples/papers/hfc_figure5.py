"""BatchNorm and mixup make a network take up more high frequencies, adversarial training fewer.

Accuracy on the test images, on their HFC(4), and the generalisation gap, of a network without
BatchNorm trained plainly, with dropout, with mixup, with BatchNorm and against PGD.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from .claims import Claim
from .training import FIVE, Training, against_pgd
from .variants import DIFFERS, HFC, bars, compared  # noqa: F401

SOURCE = "Wang et al., CVPR 2020, Figure 5"
KINDS = ("vanilla", "dropout", "mixup", "batchnorm", "adversarial")


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
        measured=2000, steps=3, seeds=FIVE,
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
    return compared(kinds, data, seed, folder)


def figure(runs):
    return bars(runs, KINDS)
