"""BatchNorm helps a network that is trained on low frequencies alone the less, the fewer there are.

Accuracy with BatchNorm minus accuracy without it, of networks trained on LFC(r), on the LFC(r) of
the test images and on the original ones.
"""

from dataclasses import dataclass, replace

from hfc_probe import Every, FrequencyAccuracy
from hfc_probe.transforms import LowPass

from .claims import Claim, difference
from .figures import draw_bars, new_figure
from .training import FIVE, Training, train

SOURCE = "Wang et al., CVPR 2020, Figure 6"
DIFFERS = "The paper draws curves over epochs; here the trained networks are compared."
TESTED = ("LFC", "original")


@dataclass(frozen=True)
class Setting(Training):
    network: str = "resnet18_plain"
    with_batchnorm: str = "resnet18"
    radii: tuple[int, ...] = (4, 8, 12, 16)


SCALES = {
    "smoke": Setting(
        network="plain", with_batchnorm="cnn", epochs=2, batch_size=16, learning_rate=1.5e-4,
        train_images=384, test_images=192, planted=(("band", "high"), ("classes", 4)),
        radii=(4, 16), seeds=(0,),
    ),
    "small": Setting(
        network="plain", with_batchnorm="cnn", epochs=6, batch_size=50, learning_rate=1e-3,
        train_images=2000, test_images=3000, radii=(4, 16), seeds=FIVE,
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = tuple(
    Claim(
        f"BatchNorm helps less on {what} test images after training on LFC(4) than on LFC(16)",
        f"r16/{part}", f"r04/{part}", "less, by eye",
    )
    for part, what in zip(TESTED, ("low-passed", "original"), strict=True)
)  # fmt: skip


def trainings(setting):
    return 2 * len(setting.radii)


def run(setting, data, seed, folder):
    numbers = {"radii": list(setting.radii)}
    for r in setting.radii:
        keep = LowPass(r, closed=False, rescale="max")
        tags = dict(zip(TESTED, (f"hfc_lfc/r{r:02d}", "hfc_accuracy/original"), strict=True))
        for name, net in (("with", setting.with_batchnorm), ("without", setting.network)):
            trained = train(
                replace(setting, network=net), data.train, seed, folder / f"r{r:02d}" / name,
                watch={"test": data.test},
                measurements={FrequencyAccuracy.as_published((r,)): Every(epochs=setting.epochs)},
                change=lambda model, images, targets, keep=keep: (keep(images), targets),
            )  # fmt: skip
            numbers |= trained.numbers(f"r{r:02d}/{name}")
        for part, tag in tags.items():
            both = (numbers[f"r{r:02d}/{name}/test/{tag}"] for name in ("with", "without"))
            numbers[f"r{r:02d}/{part}"] = difference(*both)
    return numbers


def figure(runs):
    out = new_figure(6, 4)
    axes = out.subplots()
    radii = runs[0]["radii"]
    labels = ("on the LFC(r) of the test images", "on the original test images")
    draw_bars(axes, runs, {
        label: [f"r{r:02d}/{part}" for r in radii]
        for label, part in zip(labels, TESTED, strict=True)
    })  # fmt: skip
    axes.set_xticks(range(len(radii)), [f"LFC({r})" for r in radii])
    axes.set(xlabel="trained on", ylabel="accuracy gained with BatchNorm, in points")
    out.legend(frameon=False, ncols=2, loc="outside upper center")
    return out
