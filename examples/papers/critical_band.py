"""A network recognises objects by a wider band of frequencies than people do.

Noise in one octave at a time. The width is the number of octaves in which noise hurts at least half
as much as in the worst one; no fit, since the channel may go on beyond the Nyquist frequency. The
interval is over disjoint parts of the test images.
"""

from dataclasses import dataclass

import numpy as np

from hfc_probe import CriticalBand, Samples

from .claims import Claim, mean_interval
from .figures import COLOURS, new_figure
from .training import Training, given_or_trained

SOURCE = "Subramanian et al., NeurIPS 2023, abstract and Figure 3"
DIFFERS = "The paper has ImageNet networks at 224 pixels, contrast 0.2 and grey images; no robust "
DIFFERS += "network is compared. The width was defined after a fit to the same network, 3.75 "
DIFFERS += "octaves, turned out to lie beyond the measured frequencies."
PEOPLE = 1.0  # octaves


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None
    parts: int = 8
    strengths: tuple[float, ...] = (0.02, 0.04, 0.08, 0.16)


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=4, batch_size=32, learning_rate=3e-3, train_images=512,
        test_images=512, seeds=(0,), parts=4, strengths=(0.05, 0.1, 0.2, 0.4),
        planted=(("band", "low"), ("classes", 4), ("strength", 1.0), ("noise", 0.03)),
    ),
    "small": Setting(network="cifar10/resnet20.pth", seeds=(0,)),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    Claim(
        "The network's channel is wider than people's", "network/octaves", "people/octaves",
        "2 to 4 octaves against 1", percent=False,
    ),
    Claim(
        "It is at least two octaves wide", "network/octaves", 2.0, "2 to 4 octaves", percent=False,
    ),
)  # fmt: skip


def trainings(setting):
    return 0 if setting.given else 1


def run(setting, data, seed, folder):
    chunks = (x.chunk(setting.parts) for x in (data.test.images, data.test.targets))
    parts = {f"part{k}": Samples(*pair) for k, pair in enumerate(zip(*chunks, strict=True))}
    measure = CriticalBand(strengths=setting.strengths)
    trained = given_or_trained(setting, data, seed, folder, watch=parts, measurements=[measure])
    results = [trained.results[f"{part}/critical_band"] for part in parts]
    sensitivity = np.stack([result.sensitivity for result in results])
    widths = (sensitivity >= sensitivity.max(1, keepdims=True) / 2).sum(1)
    return trained.numbers("natural") | {
        "network/octaves": mean_interval(widths),
        "people/octaves": [PEOPLE],
        "network/centre": mean_interval(np.array([result.centre for result in results])),
        "people/centre": [results[0].human_centre],
        "centres": np.array(results[0].centres),
        "sensitivity": sensitivity,
    }


def figure(runs):
    out = new_figure(6, 4)
    axes = out.subplots()
    centres = runs[0]["centres"]
    sensitivity = np.concatenate([run["sensitivity"] for run in runs])
    for each in sensitivity:
        axes.plot(centres, each, color=COLOURS[1], alpha=0.25, lw=1)
    axes.plot(centres, sensitivity.mean(0), "o-", color=COLOURS[1], label="network; thin: parts")
    middle, width = runs[0]["people/centre"][0], PEOPLE
    x = np.exp2(np.linspace(*np.log2(centres[[0, -1]]), 200))
    height = sensitivity.mean(0).max()
    axes.axhline(height / 2, color="0.5", ls=":", label="half of the network's largest")
    shape = np.exp2(-((2 * np.log2(x / middle) / width) ** 2))
    axes.plot(x, height * shape, "--", color=COLOURS[5], label="people (height arbitrary)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(centres, [f"{c:g}" for c in centres])
    axes.set_xlabel("centre of the noise's octave in cycles/image")
    axes.set_ylabel("sensitivity in octaves of noise")
    axes.legend(frameon=False)
    return out
