"""What each measurement of the papers costs, against the passes that it must make.

    python tests/benchmarks/bench_papers.py [--out FILE.json] [--repeats 5]

Each round times a measurement and, right after it, the bare forward (and backward) passes
that its definition needs, in the same batches; the figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import cifar_resnet

import hfc_probe as h

N, BATCH, STEPS = 64, 64, 5
BOUND = 1.2


def cases():
    """Name, measurement, forward passes, forward-and-backward passes (of all N images)."""
    rhos, epsilons = (0, 0.5), (0.03, 0.09)
    attacks = len(rhos) * len(epsilons)
    return [
        ("ComponentExamples", h.ComponentExamples(), 9, 0),
        (
            "AdversarialAccuracy",
            h.AdversarialAccuracy(epsilons=epsilons, rhos=rhos, steps=STEPS),
            2 * attacks,
            len(rhos) + attacks * STEPS,
        ),
        ("AmplitudePhase", h.AmplitudePhase(pairing="any"), 3, 0),
        ("TruncatedSVD", h.TruncatedSVD(), 17, 0),
        ("CriticalBand", h.CriticalBand(), 17, 0),
        ("CorruptionAccuracy", h.CorruptionAccuracy(severities=(1, 3)), 13, 0),
        ("Calibration", h.Calibration(resamples=50), 9, 0),
        # One forward pass for the prediction, one for the baseline, one per band and permutation
        # and one for the image itself.
        (
            "BandAttribution, ablation",
            h.BandAttribution(method="feature_ablation"),
            2 + 1 + 7,
            0,
        ),
        ("BandAttribution, Shapley", h.BandAttribution(permutations=3), 2 + 1 + 3 * 7, 0),
        (
            "BandAttribution, integrated gradients",
            h.BandAttribution(method="integrated_gradients", steps=16),
            2,
            16,
        ),
    ]


def bare(model: nn.Module, images: torch.Tensor, forwards: int, backwards: int) -> float:
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(forwards):
            model(images)
    for _ in range(backwards):
        x = images.clone().requires_grad_()
        loss = F.cross_entropy(model(x), torch.zeros(len(x), dtype=torch.long))
        torch.autograd.grad(loss, x)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="bench_papers.json")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = cifar_resnet.resnet20().eval()
    images = torch.rand(N, 3, 32, 32)
    samples = h.Samples(images, torch.arange(N) % 10)
    bare(model, images, 2, 1)
    table = []
    for name, measurement, forwards, backwards in cases():
        ratios, seconds = [], []
        for _ in range(options.repeats):
            start = time.perf_counter()
            measurement.measure(model, samples, batch_size=BATCH)
            mine = time.perf_counter() - start
            ratios.append(mine / bare(model, images, forwards, backwards))
            seconds.append(mine)
        row = {
            "measurement": name,
            "forwards": forwards,
            "backwards": backwards,
            "seconds": statistics.median(seconds),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
        table.append(row)
        met = "" if row["ratio"] <= BOUND else f"  above {BOUND}"
        print(
            f"{name:40} {forwards:3} forward {backwards:3} forward+backward "
            f"{row['seconds']:7.2f} s  ratio {row['ratio']:.2f}{met}",
            flush=True,
        )
    Path(options.out).write_text(json.dumps({"torch": torch.__version__, "rows": table}, indent=1))
    return 0 if all(row["ratio"] <= BOUND for row in table) else 1


if __name__ == "__main__":
    sys.exit(main())
