"""The sampled heatmaps against whole trainings' exhaustive ones: error, coverage, width.

    python tests/benchmarks/heatmap_memory.py FOLDER [--trainings vgg_adam,…] [--seeds 3]

FOLDER holds what truth_maps.py wrote. One row a training and effort: root mean square error of
the map, share of the cells whose 95 % interval holds the exhaustive value, mean half-width, and
the processor seconds of the fits, each a mean over epochs and seeds of sampling (the root of a
mean for the error). Prints the table in Markdown; --plot draws the errors against the passes.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from heatmap_oracle import Truth, run_of
from numpy.typing import NDArray

from hfc_probe import FourierHeatmap
from hfc_probe.core.drawing import CLEAN, HFC, LFC, new_figure, styled
from hfc_probe.measurements.fourier_heatmap import FourierHeatmapResult
from hfc_probe.measurements.fourier_heatmap.model import Memory

# The exhaustive map of gatheluck/FourierHeatmap: 544 directions, no clean pass. One of its passes
# takes 1.57 plain ones, one here 1.09 (peers.py).
PEER, PEER_LABEL = 100 * 544 / 515, "FourierHeatmap (peer), 1.4 times the time a pass"
TUNED, HELD_OUT = ("vgg_adam", "resnet20_cosine"), ("transformer", "resnet18_step")


@dataclass(frozen=True)
class Row:
    """What one map was worth: passes as a share of the exhaustive ones."""

    share: float
    rmse: float
    coverage: float
    half: float
    seconds: float


Rows = list[Row]


def measured(
    truth: Truth, epoch: int, settings: FourierHeatmap, memory: Memory | None = None
) -> tuple[Row, Memory | None]:
    run = run_of(truth, epoch, settings, memory)
    began = time.process_time()
    result = getattr(run, settings.estimator)()
    return row(result, truth, epoch, time.process_time() - began), result.memory


def remembered(steps: Sequence[tuple[Truth, int]], first: float, share: float, seed: int) -> Rows:
    """One map an epoch, each from the memory of the last; the first is left out."""
    memory, rows = None, []
    for k, (truth, epoch) in enumerate(steps):
        effort = int((share if k else first) * truth.exhaustive())
        one, memory = measured(truth, epoch, FourierHeatmap(forwards=effort, seed=seed), memory)
        rows.append(one)
    return rows[1:]


def row(result: FourierHeatmapResult, truth: Truth, epoch: int, seconds: float) -> Row:
    where = tuple((np.array(truth.directions).T + 16) % 32)
    error, lower, upper = (x[where] for x in (result.error, result.lower, result.upper))
    true = truth.error[epoch]
    return Row(
        result.passes / truth.exhaustive(),
        float(np.sqrt(((error - true) ** 2).mean())),
        float(((lower - 1e-9 <= true) & (true <= upper + 1e-9)).mean()),
        float((upper - lower).mean() / 2),
        seconds,
    )


def show(name: str, what: str, rows: Iterable[Row]) -> tuple[float, float]:
    """Prints one line; passes and error of it."""
    rows = list(rows)
    mean = {
        field: statistics.fmean(getattr(one, field) for one in rows)
        for field in ("share", "coverage", "half", "seconds")
    }
    rmse = statistics.fmean(one.rmse**2 for one in rows) ** 0.5
    worst = max(one.rmse for one in rows)
    print(
        f"| {name} | {what} | {100 * mean['share']:.2f} % | {rmse:.4f} | {worst:.4f} | "
        f"{mean['coverage']:.3f} | {mean['half']:.3f} | {mean['seconds']:.2f} |",
        flush=True,
    )
    return mean["share"], rmse


def alone(error: NDArray[np.float64], images: int, share: float) -> float:
    """RMSE of cells that are each sampled evenly, without replacement and without a model."""
    left = (1 - share) / (share * (images - 1))
    return float(np.sqrt((error * (1 - error)).mean() * left))


def plot(path: Path, points: dict[str, list[tuple[float, float]]], truths: list[Truth]) -> None:
    """Error against passes; a point is one training."""
    looks = {
        "precision": ("sequential (precision=)", "s", CLEAN),
        "first": ("modelled, first map", "o", LFC),
        "later": ("modelled, from the last map", "^", HFC),
    }
    with styled():
        figure = new_figure(7.2, 4.4)
        axes = figure.subplots()
        shares = np.geomspace(0.003, 0.999, 300)
        even = [
            np.mean([alone(t.error, t.clean.shape[1], share) for t in truths]) for share in shares
        ]
        axes.plot(100 * shares, even, color="0.6", lw=1.5, label="sampled evenly, no model")
        for kind, (label, marker, colour) in looks.items():
            found = np.array(points.get(kind, [])).reshape(-1, 2)
            axes.plot(100 * found[:, 0], found[:, 1], marker, color=colour, alpha=0.6, ms=6)
            axes.plot([], [], marker, color=colour, label=label)
        axes.set(xscale="log", yscale="log", xlim=(0.3, 120), ylim=(0.008, 1.0))
        axes.plot([100], [0.0085], "v", color="black", label="exhaustive")
        axes.plot([PEER], [0.0085], "v", mfc="none", color="black", label=PEER_LABEL)
        axes.set_xticks([0.4, 1, 2, 5, 10, 30, 100], ["0.4", "1", "2", "5", "10", "30", "100"])
        axes.set_yticks(
            [0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"]
        )
        axes.minorticks_off()
        axes.set_xlabel("passes, % of the exhaustive map's")
        axes.set_ylabel("RMSE of the error rates")
        axes.set_title("What a Fourier heatmap costs (1,000 images; a point is a training)")
        axes.legend(frameon=False)
        figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trainings", default=",".join(TUNED + HELD_OUT))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--shares", default="0.05,0.02,0.01", help="of the exhaustive passes")
    parser.add_argument("--precision", type=float, help="also the sequential estimator")
    parser.add_argument("--epochs", help="of the first maps: numbers from 0; all if left out")
    parser.add_argument("--later", default="0.01,0.004", help="shares of maps with a memory")
    parser.add_argument("--each", action="store_true", help="every later map in a row of its own")
    parser.add_argument("--jump", help="two trainings: from the last maps of one to the other's")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    points: dict[str, list[tuple[float, float]]] = {}
    truths = []
    print("| training | map | passes | RMSE | worst | coverage | half-width | fit, s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in filter(None, options.trainings.split(",")):
        truth = Truth(options.folder / f"{name}.npz")
        truths.append(truth)
        held = " (held out)" if name in HELD_OUT else ""
        epochs = range(len(truth.clean))
        if options.epochs is not None:
            epochs = [int(k) for k in options.epochs.split(",") if int(k) < len(truth.clean)]
        efforts = [
            {"forwards": int(float(share) * truth.exhaustive())}
            for share in filter(None, options.shares.split(","))
        ]
        if options.precision:
            efforts.append({"precision": options.precision})
        for effort in efforts:
            kind = "first" if "forwards" in effort else "precision"
            found = show(
                name + held,
                kind,
                (
                    measured(truth, epoch, FourierHeatmap(seed=seed, **effort))[0]
                    for epoch in epochs
                    for seed in range(options.seeds)
                ),
            )
            points.setdefault(kind, []).append(found)
        for later in filter(None, options.later.split(",")):
            rows = [
                remembered([(truth, k) for k in range(len(truth.clean))], 0.02, float(later), seed)
                for seed in range(options.seeds)
            ]
            found = show(name + held, "later", itertools.chain(*rows))
            points.setdefault("later", []).append(found)
            if options.each:
                for k, same in enumerate(zip(*rows, strict=True)):
                    moved = truth.error[k + 1] - truth.error[k]
                    show(f"epoch {k + 2}", f"moved {np.sqrt((moved**2).mean()):.3f}", same)
    if options.plot:
        plot(options.plot, points, truths)
    if options.jump:
        one, other = (Truth(options.folder / f"{name}.npz") for name in options.jump.split(","))
        steps = [(each, len(each.clean) - back) for each in (one, other) for back in (2, 1)]
        names = ("before", "jump", "after the jump")
        for name, result in zip(names, remembered(steps, 0.02, 0.02, 0), strict=True):
            show(options.jump, name, [result])


if __name__ == "__main__":
    main()
