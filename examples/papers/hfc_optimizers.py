"""Networks take up high frequencies whichever optimizer trains them.

Accuracy on the test images, on their HFC(4), and the generalisation gap, with five optimizers.
"""

from dataclasses import dataclass, replace

from .training import FIVE, Training
from .variants import DIFFERS as VARIANTS
from .variants import bars, claims_of_any, compared

SOURCE = "Wang et al., CVPR 2020, Section 5.1"
DIFFERS = f"The paper prints no figure of it; its claims on HFC in general are judged. {VARIANTS}"


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None
    rates: tuple[tuple[str, float], ...] = (
        ("SGD", 1e-2), ("Adam", 1e-4), ("Adagrad", 1e-2), ("Adadelta", 1.0), ("RMSprop", 1e-4),
    )  # fmt: skip


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=4, batch_size=16, train_images=256, test_images=128,
        planted=(("band", "high"), ("classes", 4)), seeds=(0,),
        rates=(("SGD", 3e-2), ("Adam", 3e-3), ("Adagrad", 1e-2), ("Adadelta", 1.0),
               ("RMSprop", 1e-3)),
    ),
    "small": Setting(
        network="cnn", epochs=6, batch_size=50, train_images=2500, test_images=2000,
        measured=2000, seeds=FIVE,
        rates=(("SGD", 3e-2), ("Adam", 1e-3), ("Adagrad", 1e-2), ("Adadelta", 1.0),
               ("RMSprop", 1e-3)),
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = claims_of_any("optimizer")


def trainings(setting):
    return len(setting.rates)


def run(setting, data, seed, folder):
    kinds = {
        name: (replace(setting, optimizer=name, learning_rate=rate), None)
        for name, rate in setting.rates
    }
    return compared(kinds, data, seed, folder)


def figure(runs):
    return bars(runs, [name for name, _ in SCALES["paper"].rates])
