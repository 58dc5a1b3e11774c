"""Networks take up high frequencies whichever their architecture.

Accuracy on the test images, on their HFC(4), and the generalisation gap, of LeNet, AlexNet, VGG
and ResNet.
"""

from dataclasses import dataclass, replace

from .training import FIVE, Training
from .variants import DIFFERS as VARIANTS
from .variants import bars, claims_of_any, compared

SOURCE = "Wang et al., CVPR 2020, Section 5.1"
DIFFERS = f"The paper prints no figure of it; its claims on HFC in general are judged. {VARIANTS}"
KINDS = ("LeNet", "AlexNet", "VGG", "ResNet")


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None
    networks: tuple[str, ...] = ("lenet", "alexnet", "vgg11", "resnet18")


SCALES = {
    "smoke": Setting(
        network="resnet8", epochs=6, batch_size=16, learning_rate=2e-3, train_images=256,
        test_images=128, planted=(("band", "high"), ("classes", 4)), seeds=(0,),
        networks=("lenet", "alexnet_small", "vgg11_small", "resnet8"),
    ),
    "small": Setting(
        network="resnet8", epochs=8, batch_size=50, learning_rate=1e-3, train_images=2000,
        test_images=1000, measured=1000, seeds=FIVE,
        networks=("lenet", "alexnet_small", "vgg11_small", "resnet8"),
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = claims_of_any("architecture")


def trainings(setting):
    return len(setting.networks)


def run(setting, data, seed, folder):
    kinds = {
        kind: (replace(setting, network=name), None)
        for kind, name in zip(KINDS, setting.networks, strict=True)
    }
    return compared(kinds, data, seed, folder)


def figure(runs):
    return bars(runs, KINDS)
