"""The library beside its peers on the same work, in one run.

    python tests/benchmarks/peers.py FOLDER [--quick]

FOLDER holds clones of the peers' repositories: ``FourierHeatmap`` (gatheluck) and ``HFC``, the
code of Wang et al. Whichever is missing is left out and named, as is wandb if it is not installed.

- A Fourier heatmap of the ResNet-20 with published weights, in a few directions: the peer's
  functions that make the noise and evaluate, with a loader in this process. Its map of 32 × 32
  pixels has 544 directions, the one here 514. The modelled map spends 2 % of the exhaustive passes.
- LFC and HFC at four radii, which the authors split image by image with NumPy.
- A training step under ``wandb.watch`` and under a probe, gradients or kernels every 100 steps.

Medians of five rounds that take turns, of one with ``--quick``; one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clocks import Times, commit, in_turn
from heatmap import IMAGENET, network, plain
from torch.utils.data import DataLoader, Dataset

import hfc_probe
from hfc_probe import Every, FourierHeatmap, KernelSpectra, Samples, fourier
from hfc_probe.transforms import HighPass, LowPass
from tests.benchmarks.test_probe_cost import Loop, resnet18

BATCH, RADII, STEPS = 128, (4, 8, 12, 16), 100
THEIR_DIRECTIONS, CPU = 544, torch.device("cpu")

# What is compared, whose it is, its times, and plain passes or times of the baseline.
Row = tuple[str, str, Times, Times]


class Tiles(Dataset[Any]):
    """Images behind a list of transforms, as a torchvision data set has them."""

    def __init__(self, samples: Samples, transforms: list[Callable[[Any], Any]]) -> None:
        self.images, self.targets = samples.pixels(), samples.targets
        self.transforms = transforms

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        for transform in self.transforms:
            image = transform(image)
        return image, int(self.targets[index])


def over(times: Times, others: Times, factor: float = 1.0) -> Times:
    return {clock: factor * times[clock] / others[clock] for clock in times}


def heatmaps(folder: Path, rounds: int, images: int) -> Iterator[Row]:
    """Costs in plain passes over all images, of six directions and, scaled, of a whole map."""
    if importlib.util.find_spec("seaborn") is None:
        raise ImportError("it imports seaborn, which is not installed")
    sys.path.append(str(folder))
    import fhmap
    from fhmap.fourier import AddFourierNoise, get_spectrum, spectrum_to_basis
    from torchvision.transforms import Normalize

    model, samples = network("resnet20")
    samples = samples.subset(images)
    normalize = Normalize(*(list(map(float, x)) for x in (IMAGENET.mean, IMAGENET.std)))
    ours = FourierHeatmap(samples=images // 4, crop=3)
    count = len(ours.directions(32, 32)) + 1  # with a pass of the clean images
    whole = len(FourierHeatmap().directions(32, 32))
    some = samples.subset(images // 4)
    few = FourierHeatmap(samples=images, forwards=images * (whole + 1) // 50)

    def peer() -> None:
        for spectrum in itertools.islice(get_spectrum(32, 17, 13, 13), count):
            basis = spectrum_to_basis(spectrum) * 4.0
            data = Tiles(some, [AddFourierNoise(basis), normalize])
            fhmap.eval_mean_errors(model, DataLoader(data, BATCH), CPU)

    def here(settings: FourierHeatmap, chosen: Samples) -> Callable[[], Any]:
        return lambda: settings.measure(model, chosen, pixels=IMAGENET, batch_size=BATCH)

    calls = {
        "passes": lambda: [plain(model, some, BATCH, CPU) for _ in range(count)],
        "peer": peer,
        "ours": here(ours, some),
        "few": here(few, samples),
    }
    found = in_turn(calls, rounds)
    passes = {clock: value / count for clock, value in found["passes"].items()}
    each = over(found["peer"], passes, 1 / count)
    exact = over(found["ours"], passes, 1 / count)
    yield "a direction, in plain passes", "FourierHeatmap", found["peer"], each
    yield "", "hfc_probe", found["ours"], exact
    scaled = {clock: THEIR_DIRECTIONS * value for clock, value in each.items()}
    yield "a whole map, in plain passes", "FourierHeatmap (scaled)", {}, scaled
    scaled = {clock: (whole + 1) * value for clock, value in exact.items()}
    yield "", "hfc_probe, exhaustive (scaled)", {}, scaled
    yield "", "hfc_probe, modelled from 2 %", found["few"], over(found["few"], passes, 1 / 4)


def splitting(folder: Path, rounds: int, images: int) -> Iterator[Row]:
    """LFC and HFC at four radii, as ratios to ``fourier.components``."""
    # The file's last part, a script, is Python 2.
    source = (folder / "utility" / "frequencyHelper.py").read_text(encoding="utf-8")
    theirs: dict[str, Any] = {"__name__": "frequency_helper"}
    exec(source.partition("if __name__")[0], theirs)
    split = theirs["generateDataWithDifferentFrequencies_3Channel"]
    _, samples = network("resnet20")
    pixels = samples.subset(images).pixels()
    arrays = pixels.permute(0, 2, 3, 1).double().numpy()

    def ours() -> list[Any]:
        return list(fourier.components(pixels, RADII, closed=False))

    def transforms() -> None:
        for radius in RADII:
            for kind in (LowPass, HighPass):
                kind(radius, closed=False)(pixels)

    def singly() -> None:
        for radius in RADII:
            for kind in (LowPass, HighPass):
                transform = kind(radius, closed=False)
                for image in pixels:
                    transform(image)

    low = np.concatenate([split(arrays, r)[0] for r in RADII])
    mine = torch.cat([part.images for part in ours() if str(part).startswith("LFC")])
    off = np.abs(low - mine.permute(0, 2, 3, 1).numpy()).max()
    print(f"LFC of {images} images at r = {RADII}: both differ by {off:.0e} at most")
    calls = {
        "HFC (Wang et al.)": lambda: [split(arrays, r) for r in RADII],
        "hfc_probe, LowPass and HighPass, an image at a time": singly,
        "hfc_probe, LowPass and HighPass": transforms,
        "hfc_probe, fourier.components": ours,
    }
    found = in_turn(calls, rounds)
    for name, times in found.items():
        what = f"splitting {images} images, over components" if name.startswith("HFC") else ""
        yield what, name, times, over(times, found["hfc_probe, fourier.components"])


def watching(folder: Path, rounds: int, images: int) -> Iterator[Row]:
    """A hundred steps of a ResNet-18 on 8 images, as ratios to the bare ones."""
    with tempfile.TemporaryDirectory() as out:
        yield from watched(rounds, Path(out))


def watched(rounds: int, out: Path) -> Iterator[Row]:
    loops = {name: Loop(resnet18(stem="imagenet"), batch=8) for name in ("bare", "wandb", "probe")}

    def steps(name: str, after: Callable[[], Any] = lambda: None) -> Callable[[], None]:
        def run() -> None:
            for _ in range(STEPS):
                loops[name].step()
                after()

        return run

    calls = {"bare": steps("bare")}
    probe = hfc_probe.attach(
        loops["probe"].model,
        None,
        optimizer=loops["probe"].optimizer,
        log_dir=out,
        measurements={KernelSpectra(): Every(steps=STEPS)},
        budget=1,
    )
    calls["hfc_probe.attach"] = steps("probe")
    if importlib.util.find_spec("wandb") is None:
        print("left out: wandb.watch, since wandb is not installed")
        run = None
    else:
        import wandb

        os.environ["WANDB_SILENT"] = "true"
        run = wandb.init(project="peers", mode="offline", dir=out)
        run.watch(loops["wandb"].model, log="all", log_freq=STEPS)
        calls["wandb.watch"] = steps("wandb", lambda: run.log({"loss": 0.0}))
    found = in_turn(calls, rounds)
    probe.close()
    if run is not None:
        run.finish()
    for name, times in found.items():
        what = f"{STEPS} training steps, over bare ones" if name == "bare" else ""
        yield what, name, times, over(times, found["bare"])


# The repository in FOLDER, "" for none, and the comparison.
COMPARED: dict[str, tuple[str, Callable[[Path, int, int], Iterator[Row]]]] = {
    "heatmaps": ("FourierHeatmap", heatmaps),
    "splitting": ("HFC", splitting),
    "watching": ("", watching),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with FourierHeatmap and HFC in it")
    parser.add_argument("--quick", action="store_true", help="one round, fewer images")
    parser.add_argument("--only", default=",".join(COMPARED), help="some, by commas: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds, images = (1, 256) if options.quick else (5, 512)
    rows: list[Row] = []
    for name in options.only.split(","):
        repository, compare = COMPARED[name]
        folder = options.folder / repository
        try:
            if not folder.is_dir():
                raise ImportError(f"there is no {folder}")
            rows += compare(folder, rounds, images)
        except ImportError as error:
            print(f"left out: {name}, since {error}")
    print(f"\ncommit {commit()}, torch {torch.__version__}, {rounds} rounds, {images} images\n")
    print("| work | whose | processor, s | wall, s | ratio, processor | wall |")
    print("|---|---|---|---|---|---|")
    for what, whose, times, ratio in rows:
        cells = [f"{times[c]:.3f}" if times else "" for c in ("processor", "wall")]
        cells += [f"{ratio[c]:.3g}" for c in ("processor", "wall")]
        print(f"| {what} | {whose} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
