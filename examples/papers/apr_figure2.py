"""A network's prediction follows an image's amplitude spectrum rather than its phase.

Amplitude and phase are exchanged between two images of different classes; of the predictions
that are either class, the share of either.
"""

from dataclasses import dataclass

import numpy as np
import torch

from hfc_probe import AmplitudePhase, fourier, wilson

from .claims import Claim
from .data import other
from .figures import BARS, bare, draw_bars, new_figure
from .training import Training, given_or_trained

SOURCE = "Chen et al., ICCV 2021, Figures 1 and 2"
DIFFERS = "The paper shows single images; here all test images are paired with one of another "
DIFFERS += "class, and with one of MNIST as the other data set."
FOLLOWS = ("phase", "amplitude", "neither")


@dataclass(frozen=True)
class Setting(Training):
    rescale: str | None = None
    examples: int = 6


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=3, batch_size=32, learning_rate=3e-3, train_images=512,
        test_images=128, planted=(("band", "high"), ("classes", 4)), seeds=(0,),
    ),
    "small": Setting(network="cifar10/resnet20.pth", seeds=(0,)),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    Claim(
        "More predictions follow the amplitude than the phase",
        "amplitude", 0.5, "amplitude, in the images shown",
    ),
    Claim(
        "Combined with another data set, an image's amplitude gives its class more often than its "
        "phase",
        "amplitude alone", "phase alone", "amplitude, in the images shown",
    ),
)  # fmt: skip


def trainings(setting):
    return 0 if setting.given else 1


def run(setting, data, seed, folder):
    measure = AmplitudePhase(pairing="different", examples=setting.examples)
    trained = given_or_trained(
        setting, data, seed, folder, watch={"test": data.test}, measurements=[measure]
    )
    result = trained.results["test/amplitude_phase"]
    phase, amplitude = (result.counts[f"phase_kept_{who}"] for who in ("own", "other"))
    both = phase + amplitude
    numbers = {
        name: [k / both, *map(float, wilson(k, both))]
        for name, k in (("amplitude", amplitude), ("phase", phase))
    }
    unknown = other(data, setting, seed)
    for name, pair in (
        ("amplitude alone", (data.test, unknown)),
        ("phase alone", (unknown, data.test)),
    ):
        with torch.no_grad():
            mixed = fourier.recombine(*(images.pixels() for images in pair)).clamp(0, 1)
            said = torch.cat([trained.model(part).argmax(1) for part in mixed.split(200)])
        hits = int((said == data.test.targets).sum())
        numbers[name] = [hits / len(said), *map(float, wilson(hits, len(said)))]
    words = [[data.classes[k] for k in labels] for labels in result.example_labels]
    return numbers | trained.numbers("natural") | {
        "words": words,
        "images": result.example_images,
        "shares": np.array([phase, amplitude, result.samples - both]) / result.samples,
    }  # fmt: skip


def figure(runs):
    images, words = runs[0]["images"], runs[0]["words"]
    out = new_figure(1.3 * len(images) + 6, 4.6)
    left, right = out.subfigures(1, 2, width_ratios=(1.3 * len(images), 6))
    grid = left.subplots(3, len(images), squeeze=False)
    for column, (views, said) in enumerate(zip(images, words, strict=True)):
        for axes, view, word in zip(grid[:, column], views, said, strict=True):
            axes.imshow(np.moveaxis(view, 0, -1).clip(0, 1), interpolation="nearest")
            axes.set_xlabel(word)
            bare(axes)
    for axes, label in zip(grid[:, 0], ("phase of", "amplitude of", "predicted"), strict=True):
        axes.set_ylabel(label)
    axes, beside = right.subplots(1, 2, width_ratios=(3, 2), sharey=True)
    shares = 100 * np.mean([run["shares"] for run in runs], 0)
    bars = axes.bar(FOLLOWS, shares, color=[*BARS[:2], "0.7"])
    axes.bar_label(bars, fmt="%.0f %%")
    axes.set(xlabel="the prediction follows", ylabel="recombined test images in %")
    axes.set_title("another test image")
    rows = FOLLOWS[:2]
    draw_bars(beside, runs, {row: [f"{row} alone"] for row in rows})
    beside.set_xticks((-0.2, 0.2), rows)
    beside.set(title="another data set", xlabel="the prediction follows its")
    return out
