"""Larger batches take up fewer high frequencies and close the generalisation gap.

Accuracy on the test images, on their HFC(4), and the generalisation gap, after as many epochs
with each batch size.
"""

from dataclasses import dataclass, replace

from .claims import Claim
from .training import FIVE, Training
from .variants import DIFFERS, HFC, TEST, bars, compared  # noqa: F401

SOURCE = "Wang et al., CVPR 2020, Figure 4"


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512)


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=3, learning_rate=3e-3, train_images=384, test_images=192,
        sizes=(16, 384), planted=(("band", "high"), ("classes", 4)), seeds=(0,),
    ),
    "small": Setting(
        network="cnn", epochs=6, learning_rate=1e-3, train_images=3000, test_images=3000,
        measured=3000, sizes=(16, 64, 256), seeds=FIVE,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    Claim("Smaller batches reach a higher test accuracy", f"smallest/{TEST}", f"largest/{TEST}",
          "higher"),
    Claim("Larger batches have a smaller generalisation gap", "smallest/gap", "largest/gap",
          "smaller"),
    Claim("Larger batches take up less HFC", f"smallest/{HFC}", f"largest/{HFC}", "less"),
)  # fmt: skip


def trainings(setting):
    return len(setting.sizes)


def run(setting, data, seed, folder):
    kinds = {f"batches of {n}": (replace(setting, batch_size=n), None) for n in setting.sizes}
    numbers = compared(kinds, data, seed, folder)
    for end, name in (("smallest", min), ("largest", max)):
        size = f"batches of {name(setting.sizes)}"
        numbers |= {f"{end}/{what}": numbers[f"{size}/{what}"] for what in (TEST, HFC, "gap")}
    return numbers | {"sizes": list(kinds)}


def figure(runs):
    return bars(runs, runs[0]["sizes"])
