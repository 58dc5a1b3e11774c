"""What the measurements cost, as ratios measured in one run.

python tests/benchmarks/heatmap.py            (a) to (f), a few minutes on two cores
python tests/benchmarks/heatmap.py --effort   and the estimators' error against their effort

(a) the exact engine over plain forward passes of as many images; (b) error and coverage of the
estimators against their effort, with the exhaustive map as truth; (c) LFC/HFC curves over
2R + 1 plain passes; (d) peak memory over a plain evaluation; (e) the split alone over a plain
rfft2 and irfft2; (f) the gradient map over a forward and backward pass. Prints a table and
writes it as JSON. Ratios are medians over pairs run alternately, so that a busy machine harms
both sides alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clocks import commit
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "cifar10"
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from hfc_probe import (
    FourierHeatmap,
    FourierSensitivity,
    FrequencyAccuracy,
    PixelSpace,
    Samples,
    fourier,
)

IMAGENET = PixelSpace.imagenet()


def network(name: str) -> tuple[nn.Module, Samples]:
    """ResNet-20 with published weights and CIFAR-10 images where present, else random ones."""
    torch.manual_seed(0)
    if name == "resnet20":
        from cifar_resnet import resnet20

        model: nn.Module = resnet20()
        if (DATA / "test.npz").is_file():
            model.load_state_dict(torch.load(DATA / "resnet20.pth", weights_only=True))
            with np.load(DATA / "test.npz") as file:
                samples = Samples(
                    torch.from_numpy(file["images"]), torch.from_numpy(file["labels"])
                )
            return model.eval(), samples
        images = torch.randint(0, 256, (512, 3, 32, 32), dtype=torch.uint8)
        return model.eval(), Samples(images, torch.randint(0, 10, (512,)))
    from torchvision.models import resnet18

    images = torch.randint(0, 256, (32, 3, 224, 224), dtype=torch.uint8)
    return resnet18().eval(), Samples(images, torch.randint(0, 1000, (32,)))


def plain(model: nn.Module, samples: Samples, batch: int, device: torch.device) -> int:
    """The forward passes of an ordinary evaluation; the number of right predictions."""
    right = torch.zeros((), dtype=torch.long, device=device)
    with torch.inference_mode():
        for start in range(0, len(samples), batch):
            part = slice(start, start + batch)
            images = samples.pixels(part).to(device)
            targets = samples.targets[part].to(device)
            right += (model(IMAGENET.normalize(images)).argmax(1) == targets).sum()
    return int(right)


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    # One thread: processor time, which a busy machine does not stretch.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def ratio(
    ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int, device: torch.device
) -> tuple[float, float]:
    """Median and spread (half the interquartile range) of the ratio over alternating pairs."""
    ours(), theirs()  # warm up
    found = []
    for k in range(pairs):
        if k % 2:
            b = seconds(theirs, device)
            a = seconds(ours, device)
        else:
            a = seconds(ours, device)
            b = seconds(theirs, device)
        found.append(a / b)
    low, _, high = statistics.quantiles(found, n=4)
    return statistics.median(found), (high - low) / 2


def speed(name: str, pairs: int, device: torch.device) -> list[dict[str, Any]]:
    model, samples = network(name)
    model = model.to(device)
    small = name == "resnet20"
    batch = 128 if small else 8
    samples = samples.subset(256 if small else 16)
    count = len(samples)
    rows = []

    heatmap = FourierHeatmap(norm=None, samples=count, crop=5)  # 13 directions
    passes = len(heatmap.directions(*samples.image_shape[1:])) + 1

    def repeated(times: int) -> None:
        for _ in range(times):
            plain(model, samples, batch, device)

    def row(what: str, floor: float, ours: Any, theirs: Any) -> None:
        median, spread = ratio(ours, theirs, pairs, device)
        rows.append(
            {"what": what, "network": name, "ratio": median, "spread": spread, "floor": floor}
        )
        print(f"{what:58} {name:9} {median:6.3f} ± {spread:.3f}  (at most {floor})", flush=True)

    row(
        "(a) exact engine / plain forwards",
        1.10,
        lambda: heatmap.measure(model, samples, pixels=IMAGENET, batch_size=batch),
        lambda: repeated(passes),
    )
    curves = FrequencyAccuracy()
    radii = len(curves.radii_for(*samples.image_shape[1:]))
    row(
        "(c) LFC/HFC curves / (2R + 1) plain passes",
        1.15,
        lambda: curves.measure(model, samples, pixels=IMAGENET, batch_size=batch),
        lambda: repeated(2 * radii + 1),
    )
    images = samples.pixels().to(device)

    def transform() -> None:
        torch.fft.irfft2(torch.fft.rfft2(images), s=images.shape[-2:])

    def many(call: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(5):
                call()

        return run

    row("(e) split / rfft2 + irfft2", 1.5, many(lambda: fourier.split(images, 8)), many(transform))

    def backward() -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for start in range(0, count, batch):
            part = slice(start, start + batch)
            x = samples.pixels(part).to(device).requires_grad_(True)
            logits = model(IMAGENET.normalize(x))
            loss = F.cross_entropy(logits, samples.targets[part].to(device), reduction="sum")
            torch.autograd.grad(loss, x)
        for parameter in model.parameters():
            parameter.requires_grad_(True)

    row(
        "(f) gradient map / forward and backward pass",
        1.15,
        lambda: FourierSensitivity().measure(model, samples, pixels=IMAGENET, batch_size=batch),
        backward,
    )
    return rows


def _peak(kind: str, name: str, queue: Any) -> None:
    torch.set_num_threads(1)
    model, samples = network(name)
    small = name == "resnet20"
    batch = 128 if small else 8
    samples = samples.subset(256 if small else 16)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS")
    if kind == "plain":
        for _ in range(3):
            plain(model, samples, batch, torch.device("cpu"))
    elif kind == "heatmap":
        FourierHeatmap(norm=None, crop=5).measure(model, samples, pixels=IMAGENET, batch_size=batch)
    else:
        FrequencyAccuracy().measure(model, samples, pixels=IMAGENET, batch_size=batch)
    queue.put((before, _status("VmHWM")))


def _status(name: str) -> int:
    """A figure of this process in kB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def memory(name: str) -> list[dict[str, Any]]:
    """Peak resident memory beyond what model, data and libraries take, each in its process."""
    context = multiprocessing.get_context("spawn")
    used: dict[str, float] = {}
    whole: dict[str, float] = {}
    for kind in ("plain", "heatmap", "curves"):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(kind, name, queue))
        process.start()
        before, after = queue.get()
        process.join()
        used[kind], whole[kind] = after - before, after
    rows = []
    for kind in ("heatmap", "curves"):
        found = used[kind] / used["plain"]
        rows.append(
            {
                "what": f"(d) peak memory of {kind} / plain evaluation",
                "network": name,
                "ratio": found,
                "whole_process": whole[kind] / whole["plain"],
                "floor": 1.5,
            }
        )
        print(f"{rows[-1]['what']:58} {name:9} {found:6.3f}  (at most 1.5)", flush=True)
    return rows


def effort(count: int, device: torch.device) -> list[dict[str, Any]]:
    """RMSE and coverage against the exhaustive map of the same images."""
    model, samples = network("resnet20")
    model, samples = model.to(device), samples.subset(count)

    def measure(**settings: Any) -> Any:
        return FourierHeatmap(samples=count, **settings).measure(
            model, samples, pixels=IMAGENET, progress=True
        )

    truth = measure()
    rows = []
    cells = len(FourierHeatmap().directions(32, 32))
    whole = 1000 * cells
    for settings in (
        {"forwards": whole // 100},
        {"forwards": whole // 40},
        {"forwards": whole // 20},
        {"precision": 0.1},
        {"precision": 0.05},
    ):
        found = measure(**settings)
        off = found.error - truth.error
        covered = (found.lower - 1e-9 <= truth.error) & (truth.error <= found.upper + 1e-9)
        rows.append(
            {
                "what": f"(b) {settings}",
                "network": "resnet20",
                "samples": count,
                "passes": found.passes,
                "share_of_exhaustive": found.passes / (count * cells),
                "share_of_exhaustive_1000": found.passes / whole,
                "rmse": float(np.sqrt((off**2).mean())),
                "worst": float(np.abs(off).max()),
                "coverage": float(covered.mean()),
            }
        )
        r = rows[-1]
        print(
            f"{r['what']:30} {found.passes:7d} passes ({100 * r['share_of_exhaustive_1000']:.1f} % "
            f"of 1,000 a cell, {100 * r['share_of_exhaustive']:.1f} % of {count})  "
            f"RMSE {r['rmse']:.4f}  worst {r['worst']:.3f}  coverage {r['coverage']:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effort", action="store_true", help="also (b): minutes to an hour")
    parser.add_argument("--samples", type=int, default=512, help="images of (b)")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--networks", default="resnet20,resnet18")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("heatmap-benchmark.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    head = {
        "commit": commit(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in head.items()))
    rows: list[dict[str, Any]] = []
    for name in options.networks.split(","):
        rows += speed(name, options.pairs, device)
        if not on_gpu:
            rows += memory(name)
    if options.effort:
        rows += effort(options.samples, device)
    options.out.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
