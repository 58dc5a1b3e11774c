"""Networks learn natural labels from low frequencies first, and shuffled labels from high ones.

Accuracy on the training images and on their LFC(r), with the labels that were trained on.
"""

from dataclasses import dataclass

from hfc_probe import FrequencyAccuracy

from .claims import Claim
from .figures import COLOURS, draw_curve, new_figure
from .training import Training, train

SOURCE = "Wang et al., CVPR 2020, Figure 3"
DIFFERS = "Few images, which the small network can memorise."
RADII = (4, 8, 12, 16)
LOW = "hfc_lfc/r04"


@dataclass(frozen=True)
class Setting(Training):
    learned: float = 0.9  # accuracy on the training images at which labels count as learned


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=3, batch_size=16, learning_rate=3e-3, train_images=192,
        test_images=32, measured=96, planted=(("band", "low"), ("classes", 4)), seeds=(0,),
    ),
    "small": Setting(
        network="cnn", epochs=45, batch_size=25, learning_rate=3e-3, train_images=800,
        test_images=100, measured=400,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    Claim(
        "After one epoch, LFC(4) alone gives more of the natural labels than of the shuffled ones",
        "natural/first", "shuffled/first", "about 40 % against chance",
    ),
    Claim(
        "Shuffled labels take more epochs to learn",
        "shuffled/epochs", "natural/epochs", "about three times as many", percent=False,
    ),
    Claim(
        "Once learned, LFC(4) alone gives more of the natural labels",
        "natural/learned", "shuffled/learned", "natural above shuffled throughout",
    ),
)  # fmt: skip


def trainings(setting):
    return 2


def run(setting, data, seed, folder):
    numbers = {}
    for name, images in (("natural", data.train), ("shuffled", data.train.shuffled_labels(seed))):
        measure = [FrequencyAccuracy.as_published(RADII)]
        trained = train(
            setting, images, seed, folder / name, watch={"train": images}, measurements=measure
        )
        low, original = (trained.curves[f"train/{tag}"] for tag in (LOW, "hfc_accuracy/original"))
        reached = [k for k, (accuracy, *_) in enumerate(original) if accuracy >= setting.learned]
        epoch = reached[0] if reached else len(original)  # not learned: at least one epoch more
        numbers |= trained.numbers(name) | {
            f"{name}/first": low[0],
            f"{name}/epochs": [epoch + 1],
            f"{name}/learned": low[epoch] if reached else None,
        }
    return numbers


def figure(runs):
    out = new_figure(10, 4)
    for axes, name in zip(out.subplots(1, 2, sharey=True), ("natural", "shuffled"), strict=True):
        draw_curve(axes, runs, f"{name}/train/hfc_accuracy/original", COLOURS[0], "original")
        for r, colour in zip(RADII, COLOURS[1:], strict=False):
            draw_curve(axes, runs, f"{name}/train/hfc_lfc/r{r:02d}", colour, f"LFC({r})")
        axes.set(title=f"{name} labels", xlabel="epoch", ylim=(0, 102))
        axes.xaxis.get_major_locator().set_params(integer=True)
    out.axes[0].set_ylabel("accuracy on training images in %")
    out.axes[1].legend(frameon=False, loc="upper left")
    return out
