"""Smoothing the first layer's kernels costs clean accuracy and resists large attacks.

Accuracy under FGSM and PGD of a network without BatchNorm, as trained and with its kernels
smoothed by ρ.
"""

from dataclasses import dataclass

import numpy as np

from hfc_probe import AdversarialAccuracy, Every

from .claims import Claim
from .figures import COLOURS, new_figure
from .training import FIVE, Training, train

SOURCE = "Wang et al., CVPR 2020, Table 2"
DIFFERS = "The paper attacks with Foolbox's FGSM and PGD at their defaults; here PGD makes ten "
DIFFERS += "steps from a random start. Only the direction is compared."
RHOS = (0.0, 0.1, 0.25, 0.5, 1.0)
CLEAN = "test/hfc_attack/clean"


@dataclass(frozen=True)
class Setting(Training):
    network: str = "plain"
    rescale: str | None = None  # attacks are bounded in pixel space
    epsilons: tuple[float, ...] = (0.03, 0.06, 0.09)
    steps: int = 10
    attacked: int = 1000  # test images


SCALES = {
    "smoke": Setting(
        epochs=5, batch_size=16, learning_rate=3e-3, train_images=384, test_images=128,
        planted=(("band", "high"), ("classes", 4)), seeds=(0,), steps=5, attacked=128,
    ),
    "small": Setting(
        epochs=12, batch_size=50, learning_rate=1e-3, train_images=4000, test_images=1000,
        attacked=300, seeds=FIVE,
    ),
    "paper": Setting(network="resnet18_plain"),
}  # fmt: skip
CLAIMS = (
    Claim(
        "Smoothing by ρ = 1 costs clean accuracy",
        f"as trained/{CLEAN}", f"smoothed/{CLEAN}", "it falls with ρ",
    ),
    *(
        Claim(
            f"At ε = 0.09 it raises accuracy under {attack.upper()}",
            f"smoothed/test/hfc_attack/{attack}_e0.09",
            f"as trained/test/hfc_attack/{attack}_e0.09",
            "it rises with ρ",
        )
        for attack in ("fgsm", "pgd")
    ),
)  # fmt: skip


def trainings(setting):
    return 1


def run(setting, data, seed, folder):
    measure = AdversarialAccuracy(
        setting.epsilons, RHOS, steps=setting.steps, samples=setting.attacked
    )
    trained = train(
        setting, data.train, seed, folder,
        watch={"test": data.test}, measurements={measure: Every(epochs=setting.epochs)},
    )  # fmt: skip
    arrays = trained.results["test/adversarial_accuracy"].arrays()
    numbers = {}
    for tag, (*_, number) in trained.curves.items():
        if "_rho" not in tag:
            numbers[f"as trained/{tag}"] = number
        elif tag.endswith("_rho1"):
            numbers[f"smoothed/{tag.removesuffix('_rho1')}"] = number
    return numbers | {
        "epsilons": list(setting.epsilons),
        "without a gradient": arrays["without_gradient"].tolist(),
        "clean": arrays["clean"][:, None],
        "fgsm": arrays["fgsm"],
        "pgd": arrays["pgd"],
    }


def figure(runs):
    out = new_figure(9, 4)
    panels = out.subplots(1, 2, sharey=True)
    for axes, attack in zip(panels, ("fgsm", "pgd"), strict=True):
        values = 100 * np.stack([np.hstack([run["clean"], run[attack]]) for run in runs])
        labels = ["no attack", *(f"ε = {e:g}" for e in runs[0]["epsilons"])]
        for column, label in enumerate(labels):
            colour = COLOURS[(0, 2, 1, 5)[column]]
            each = values[:, :, column]
            axes.plot(RHOS, each.mean(0), "o-", color=colour, label=label)
            axes.fill_between(RHOS, each.min(0), each.max(0), color=colour, alpha=0.2, lw=0)
        axes.set(title=attack.upper(), xlabel="kernel smoothing ρ")
    panels[0].set_ylabel("accuracy on test images in %")
    panels[0].set_ylim(bottom=0)
    panels[1].legend(frameon=False)
    return out
