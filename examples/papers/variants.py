"""Recipes that train one network in several ways and compare what it takes up of HFC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hfc_probe import Every, FrequencyAccuracy

from .claims import Claim, Numbers, difference
from .data import Data
from .figures import draw_bars, new_figure
from .training import Change, Training, train

HFC, TEST, TRAIN = "test/hfc_hfc/r04", "test/hfc_accuracy/original", "train/hfc_accuracy/original"
BARS = {"original test images": TEST, "their HFC(4)": HFC, "training minus test": "gap"}
DIFFERS = "The paper draws curves over epochs; here the trained networks are compared, "
DIFFERS += "and HFC is fed on the images' mean."


def compared(
    variants: Mapping[str, tuple[Training, Change | None]], data: Data, seed: int, folder: Path
) -> Numbers:
    """The numbers of each training by "NAME/…", its gap, and its accuracy on HFC(4).

    "most HFC/…" and "least HFC/…" are those of the two that take up most and least of it.
    """
    measure = FrequencyAccuracy((4,), closed=False, hfc_background="mean")
    numbers: Numbers = {}
    for name, (setting, change) in variants.items():
        trained = train(
            setting, data.train, seed, folder / name, change=change,
            watch={"train": data.train, "test": data.test},
            measurements={measure: Every(epochs=setting.epochs)},
        )  # fmt: skip
        numbers |= trained.numbers(name)
        numbers[f"{name}/gap"] = difference(numbers[f"{name}/{TRAIN}"], numbers[f"{name}/{TEST}"])
    ranked = sorted(variants, key=lambda name: numbers[f"{name}/{HFC}"][0])
    for which, name in (("most HFC", ranked[-1]), ("least HFC", ranked[0])):
        numbers |= {f"{which}/{what}": numbers[f"{name}/{what}"] for what in (HFC, "gap")}
    return numbers | {"chance": [1 / len(data.classes)]}


def claims_of_any(kind: str) -> tuple[Claim, ...]:
    """What the paper says of HFC in general, for any kind of variant."""
    return (
        Claim(
            f"Whichever the {kind}, HFC(4) alone is classified better than by chance",
            f"least HFC/{HFC}", "chance", "networks take up HFC",
        ),
        Claim(
            f"The {kind} that takes up most HFC has a larger generalisation gap than the one that "
            "takes up least",
            "most HFC/gap", "least HFC/gap", "both go together",
        ),
    )  # fmt: skip


def bars(runs: Sequence[Numbers], names: Sequence[str]):
    """The figure: test accuracy, accuracy on HFC(4) and gap of each variant."""
    out = new_figure(1.2 * len(names) + 3.5, 4)
    axes = out.subplots()
    draw_bars(axes, runs, {label: [f"{n}/{what}" for n in names] for label, what in BARS.items()})
    axes.axhline(100 * runs[0]["chance"][0], color="0.5", ls=":", label="chance")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("accuracy, or training minus test, in %")
    out.legend(frameon=False, ncols=4, loc="outside upper center")
    return out
