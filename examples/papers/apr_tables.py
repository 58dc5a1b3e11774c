"""Training on recombined amplitude and phase resists corruptions and unknown images better.

Clean error, error under corruptions, how well confidence separates test images from another data
set (AUROC), and calibration error, after training as usual, with APR-P, with APR-S and with both.
"""

from dataclasses import dataclass

import torch

from hfc_probe import Calibration, CorruptionAccuracy, Every
from hfc_probe.transforms import AmplitudePhaseMix, AmplitudePhaseSelf

from .claims import Claim
from .data import other
from .figures import draw_bars, new_figure
from .training import FIVE, Training, train

SOURCE = "Chen et al., ICCV 2021, tables of corruptions and of out-of-distribution detection"
DIFFERS = "The paper has CIFAR-10-C and several unknown data sets, whose AUROC is by the largest "
DIFFERS += "logit; at small scale corruptions are Fourier waves and band noise, and the unknown "
DIFFERS += "images are MNIST's. mCE is of the authors' README, for a ResNet-50."
KINDS = ("standard", "APR-P", "APR-S", "APR-P and S")
ROWS = {
    "clean error": "clean_error",
    "error under corruptions": "mean_error",
    "AUROC": "auroc_ood",
    "calibration error": "ece_original",
}


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None
    corruptions: str | None = "CIFAR-10-C"  # a folder beside the data; None: waves and band noise
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    p: float = 0.6  # of APR-P
    keep_original: bool = True


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=3, batch_size=32, learning_rate=3e-3, train_images=384,
        test_images=192, seeds=(0,), corruptions=None, severities=(1,), p=1.0,
        keep_original=False, planted=(("band", "low"), ("classes", 4), ("strength", 6.0)),
    ),
    "small": Setting(
        network="cnn", epochs=8, batch_size=50, learning_rate=2e-3, train_images=1500,
        test_images=1000, corruptions=None, severities=(1, 3, 5), keep_original=False,
        measured=500, seeds=FIVE,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    *(
        Claim(f"{text} the error under corruptions", "standard/mean_error", f"{kind}/mean_error",
              f"lower; on ImageNet-C mCE {mce} against 80.6")
        for kind, text, mce in (("APR-P", "APR-P lowers", 69.3), ("APR-S", "APR-S lowers", 70.5),
                                ("APR-P and S", "Both lower", 65.0))
    ),
    Claim("Both raise the AUROC against unknown images", "APR-P and S/auroc_ood",
          "standard/auroc_ood", "higher"),
    Claim("Both lower the calibration error", "standard/ece_original",
          "APR-P and S/ece_original", "not compared"),
)  # fmt: skip


def trainings(setting):
    return len(KINDS)


def run(setting, data, seed, folder):
    mix = AmplitudePhaseMix(
        setting.p, over_channels=True, keep_original=setting.keep_original, clip=False
    )
    alone = AmplitudePhaseSelf(over_channels=True)

    def pairs(model, images, targets):
        return mix(images, targets)

    def singles(model, images, targets):
        return torch.stack([alone(image) for image in images]), targets

    def both(model, images, targets):
        return pairs(model, *singles(model, images, targets))

    last = Every(epochs=setting.epochs)
    corruptions = setting.corruptions and str(data.root / setting.corruptions)
    measurements = {
        CorruptionAccuracy(corruptions, severities=setting.severities): last,
        Calibration((8,), ood=other(data, setting, seed), rescale=setting.rescale): last,
    }
    numbers = {}
    for kind, change in zip(KINDS, (None, pairs, singles, both), strict=True):
        trained = train(
            setting, data.train, seed, folder / kind, change=change,
            watch={"test": data.test}, measurements=measurements,
        )  # fmt: skip
        numbers |= trained.numbers(kind)
        for tag, curve in trained.curves.items():
            if tag.rpartition("/")[2] in ROWS.values():
                numbers[f"{kind}/{tag.rpartition('/')[2]}"] = curve[-1]
    return numbers


def figure(runs):
    out = new_figure(9, 4)
    axes = out.subplots()
    draw_bars(
        axes, runs, {label: [f"{kind}/{row}" for kind in KINDS] for label, row in ROWS.items()}
    )
    axes.set_xticks(range(len(KINDS)), KINDS)
    axes.set_ylabel("on test images, in %")
    out.legend(frameon=False, ncols=4, loc="outside upper center")
    return out
