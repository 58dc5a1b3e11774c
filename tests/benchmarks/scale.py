"""How the cost of measurements grows with images, radii, size and classes: docs/scale.png.

    python tests/benchmarks/scale.py [--out docs/scale.png] [--rounds 3]

Processor time of accuracy by frequency and of an exhaustive heatmap of five directions, over that
of a plain pass of the ResNet-20 in the same run, on one thread. Whatever does not lie on the dotted
line is cost beside the passes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from clocks import commit, in_turn
from heatmap import IMAGENET, network, plain
from torch import nn

from hfc_probe import FourierHeatmap, FrequencyAccuracy, Measurement, Samples
from hfc_probe.core.drawing import HFC, LFC, new_figure, styled

CPU = torch.device("cpu")
CURVES, HEATMAP = "accuracy by frequency", "heatmap, 5 directions"
PASSES = 4  # of the baseline: one alone is short for a clock
RADII = {1: (4,), 2: (4, 8), 4: (4, 8, 12, 16), 8: tuple(range(2, 18, 2)), 16: tuple(range(1, 17))}


@dataclass
class Panel:
    """What grows, and each measurement's cost and passes, in passes over the images ``of``."""

    what: str
    at: list[int] = field(default_factory=list)
    cost: dict[str, list[float]] = field(default_factory=dict)
    passes: dict[str, list[float]] = field(default_factory=dict)
    of: str = "all images"

    def add(
        self,
        at: int,
        rounds: int,
        model: nn.Module,
        samples: Samples,
        radii: tuple[float, ...] = RADII[4],
        unit: int | None = None,
        heatmap: bool = True,
    ) -> None:
        settings: dict[str, Measurement] = {CURVES: FrequencyAccuracy(radii=radii)}
        if heatmap:
            settings[HEATMAP] = FourierHeatmap(norm=None, samples=len(samples), crop=3)
        calls: dict[str, Any] = {
            "plain": lambda: [plain(model, samples, 128, CPU) for _ in range(PASSES)]
        }
        for name, one in settings.items():
            calls[name] = lambda one=one: one.measure(
                model, samples, pixels=IMAGENET, batch_size=128
            )
        found = in_turn(calls, rounds)
        scale = len(samples) / (unit or len(samples))
        self.at.append(at)
        for name, one in settings.items():
            taken = PASSES * found[name]["processor"] / found["plain"]["processor"]
            passes = one.cost(len(samples), samples.image_shape) / len(samples)
            self.cost.setdefault(name, []).append(taken * scale)
            self.passes.setdefault(name, []).append(passes * scale)
            print(f"{self.what} {at:,}: {name} {taken:.2f} plain passes, {passes:.2f} of its own")


def images(count: int, size: int = 32) -> Samples:
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    return Samples(pixels, torch.arange(count) % 10)


def by_images(rounds: int) -> Panel:
    panel = Panel("images", of="16 images")
    for count in (16, 32, 64, 128):
        panel.add(count, rounds, network("resnet20")[0], images(count), unit=16)
    return panel


def by_radii(rounds: int) -> Panel:
    panel = Panel("radii")
    for count, radii in RADII.items():
        panel.add(count, rounds, network("resnet20")[0], images(32), radii, heatmap=False)
    return panel


def by_size(rounds: int) -> Panel:
    panel = Panel("pixels a side")
    for size, count in {32: 32, 64: 16, 128: 4, 224: 2}.items():
        panel.add(size, rounds, network("resnet20")[0], images(count, size))
    return panel


def by_classes(rounds: int) -> Panel:
    panel = Panel("classes")
    for classes in (10, 100, 1000, 10_000):
        model, _ = network("resnet20")
        model.linear = nn.Linear(64, classes)
        panel.add(classes, rounds, model, images(32))
    return panel


PANELS = (by_images, by_radii, by_size, by_classes)


def draw(found: list[Panel], path: Path) -> None:
    with styled():
        figure = new_figure(9.6, 6.2)
        for axes, panel in zip(figure.subplots(2, 2).flat, found, strict=True):
            for name, colour, marker in ((CURVES, LFC, "o"), (HEATMAP, HFC, "s")):
                if name in panel.cost:
                    axes.plot(panel.at, panel.passes[name], ":", color=colour, lw=1.5)
                    axes.plot(panel.at, panel.cost[name], marker, color=colour, label=name)
            axes.set_xscale("log")
            axes.set_xticks(panel.at, [f"{at:,}" for at in panel.at])
            most = 1.15 * max(max(values) for values in panel.cost.values())
            if len({*panel.passes[CURVES]}) > 1:
                axes.set_yscale("log")
                ticks = [tick for tick in (2, 5, 10, 20, 50, 100) if tick < most]
                axes.set_yticks(ticks, [str(tick) for tick in ticks])
            else:
                axes.set_ylim(0, most)
            axes.minorticks_off()
            axes.set_xlabel(panel.what)
            axes.set_ylabel(f"plain passes over {panel.of}")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        dotted = figure.axes[0].plot([], [], ":", color="0.4", lw=1.5)
        figure.legend(
            [*handles, *dotted],
            [*labels, "its forward passes alone"],
            loc="outside upper center",
            ncols=3,
            frameon=False,
        )
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/scale.png"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"commit {commit()}, torch {torch.__version__}")
    draw([panel(options.rounds) for panel in PANELS], options.out)


if __name__ == "__main__":
    main()
