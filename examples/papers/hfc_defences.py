"""Smoother kernels and a low-pass filter gain little against attacks; the filter hides gradients.

Accuracy under PGD of a network without BatchNorm, as it is, with its kernels smoothed or
low-passed, with a penalty on rough kernels in training, and behind a low-pass filter, which the
attack goes through or ignores.
"""

from dataclasses import dataclass

import torch
from torch import nn

from hfc_probe import Every, FrequencyAccuracy, attacks, kernels, wilson
from hfc_probe.transforms import FrequencyFilter

from .claims import Claim, difference
from .figures import draw_bars, new_figure
from .training import FIVE, Training, train

SOURCE = "Wang et al., the authors' blog post on defences"
DIFFERS = "A gain counts as marginal up to ten points of accuracy; the post gives no number."
NONE, THROUGH, IGNORED = "no defence", "filter, attacked through it", "filter, attack ignores it"
GAINS = {
    "kernels smoothed": "Kernel smoothing",
    "kernels low-passed": "Low-passing the kernels",
    "penalty on roughness": "A smoothness penalty",
    THROUGH: "A low-pass filter that the attack goes through",
}
KINDS = (NONE, *GAINS, IGNORED)


@dataclass(frozen=True)
class Setting(Training):
    network: str = "resnet18_plain"
    rescale: str | None = None  # attacks are bounded in pixel space
    rho: float = 0.5
    kernel_radius: float = 1.0  # cycles per kernel
    weight: float = 1.0  # of the penalty in the loss
    radius: float = 8.0  # of the filter on the input
    epsilon: float = 0.03
    steps: int = 10


SCALES = {
    "smoke": Setting(
        network="plain", epochs=5, batch_size=16, learning_rate=3e-3, train_images=384,
        test_images=128, planted=(("band", "high"), ("classes", 4)), seeds=(0,), radius=15.0,
        epsilon=0.1, steps=5,
    ),
    "small": Setting(
        network="plain", epochs=6, batch_size=50, learning_rate=1e-3, train_images=3000,
        test_images=300, epsilon=0.02, seeds=FIVE,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    *(
        Claim(f"{text} gains at most ten points under PGD", "marginal", f"{name}/gain", "marginal")
        for name, text in GAINS.items()
    ),
    Claim(
        "The filter looks stronger if the attack ignores it",
        f"{IGNORED}/pgd", f"{THROUGH}/pgd", "it hides gradients, no number",
    ),
)  # fmt: skip


def trainings(setting):
    return 2


def run(setting, data, seed, folder):
    options = {
        "watch": {"test": data.test},
        "measurements": {FrequencyAccuracy((4,)): Every(epochs=setting.epochs)},
    }
    numbers = {"marginal": [0.1]}
    plain = train(setting, data.train, seed, folder / "plain", **options)
    smooth = train(
        setting, data.train, seed, folder / "penalty", **options,
        penalty=lambda model: setting.weight * kernels.smoothness_penalty(model),
    )  # fmt: skip
    model = plain.model
    filtered = nn.Sequential(FrequencyFilter(setting.radius), model)
    with (
        kernels.smoothed(model, setting.rho) as smoothed,
        kernels.low_passed(model, setting.kernel_radius) as low_passed,
    ):
        defended = (model, smoothed, low_passed, smooth.model, filtered, filtered)
        attacked = (*defended[:-1], model)
        for name, *pair in zip(KINDS, defended, attacked, strict=True):
            for key, steps in (("clean", 0), ("pgd", setting.steps)):
                numbers[f"{name}/{key}"] = accuracy(*pair, data.test, setting, steps)
            numbers[f"{name}/gain"] = difference(numbers[f"{name}/pgd"], numbers[f"{NONE}/pgd"])
    return numbers | plain.numbers("plain") | smooth.numbers("penalty")


def accuracy(defended, attacked, test, setting, steps):
    """Accuracy of one network on attacks that were made on another."""
    device = next(defended.parameters()).device
    hits = 0
    for index in torch.arange(len(test)).split(200):
        images, targets = test.pixels(index).to(device), test.targets[index].to(device)
        if steps:
            images = attacks.pgd(attacked, images, targets, epsilon=setting.epsilon, steps=steps)
        with torch.no_grad():
            hits += int((defended(images).argmax(1) == targets).sum())
    return [hits / len(test), *map(float, wilson(hits, len(test)))]


def figure(runs):
    out = new_figure(9, 4)
    axes = out.subplots()
    rows = {"original test images": "clean", "under PGD": "pgd"}
    draw_bars(
        axes, runs, {label: [f"{name}/{key}" for name in KINDS] for label, key in rows.items()}
    )
    axes.set_xticks(range(len(KINDS)), [name.replace(", ", ",\n") for name in KINDS])
    axes.tick_params("x", labelsize=8)
    axes.set_ylabel("accuracy in %")
    out.legend(frameon=False, ncols=2, loc="outside upper center")
    return out
