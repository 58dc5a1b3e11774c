"""The modelled map of images of 224 px, in a window of 63 × 63 frequencies, from 1 % of its passes.

    python tests/benchmarks/heatmap_224.py [--images 1000] [--cells 100]

The network is the CIFAR ResNet-20 behind averages of 7 × 7 pixels, its images CIFAR's enlarged to
224 px, so it is as accurate as it is published. The exhaustive map would take a million passes: it
is measured in some random cells, and the modelled map is held against those.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from heatmap import IMAGENET, network
from torch import nn
from torch.nn import functional as F
from truth_maps import images_of

from hfc_probe import FourierHeatmap, Samples
from hfc_probe.measurements.fourier_heatmap.engine import Engine
from hfc_probe.model.subject import subject_of

SIZE, CROP, BATCH = 224, 63, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--cells", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.images
    small, _ = network("resnet20")
    images, targets = (x[:count] for x in images_of("test"))
    samples = Samples(F.interpolate(images, scale_factor=7), targets)
    model = nn.Sequential(nn.AvgPool2d(7), small).eval()
    whole = FourierHeatmap(norm=None, crop=CROP, samples=count)
    directions = whole.directions(SIZE, SIZE)
    passes = count * (len(directions) + 1) // 100
    few = FourierHeatmap(norm=None, crop=CROP, samples=count, forwards=passes)
    found = few.measure(model, samples, pixels=IMAGENET, batch_size=BATCH)
    chosen = np.random.default_rng(0).choice(len(directions), options.cells, replace=False)
    truth, at = [], []
    with subject_of(model, samples, pixels=IMAGENET, batch_size=BATCH) as subject:
        engine = Engine(subject, samples, directions, norm=found.settings["norm"], seed=0)
        for cell in chosen:
            seen = engine.run(np.full(count, cell), np.arange(count))
            truth.append(float(seen.wrong[:, 0].float().mean()))
            at.append((directions[cell][0] + CROP // 2, directions[cell][1] + CROP // 2))
    where = tuple(np.array(at).T)
    off = found.error[where] - truth
    inside = (found.lower[where] - 1e-9 <= truth) & (truth <= found.upper[where] + 1e-9)
    half = (found.upper[where] - found.lower[where]).mean() / 2
    print(
        f"{found.passes} passes ({100 * found.passes / (100 * passes):.2f} %), {options.cells} of "
        f"{len(directions)} cells: RMSE {np.sqrt((off**2).mean()):.3f}, coverage "
        f"{inside.mean():.3f}, half-width {half:.3f}; rates from {min(truth):.2f} to "
        f"{max(truth):.2f}"
    )


if __name__ == "__main__":
    main()
