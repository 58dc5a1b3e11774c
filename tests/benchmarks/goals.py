"""One table of what the library should cost and what it does cost on this processor.

    python tests/benchmarks/goals.py [ROW …] [--rounds 3]

Each row can be run alone, by the name of its function; all of them take about ten minutes on two
idle cores. The networks are the CIFAR ResNet-20 with published weights on real images, and small
ones if only what surrounds the passes counts. Ratios are by processor time of one thread, unless
they say wall time, which other processes on the machine stretch.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clocks import commit, medians, seconds
from heatmap import IMAGENET, _status, network, plain, ratio
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from truth_maps import PIXELS, augmented, images_of

import hfc_probe
from hfc_probe import FourierHeatmap, FrequencyAccuracy, KernelSpectra, Samples
from hfc_probe.detection import DetectionAudit, Detections, GroundTruth
from hfc_probe.measurements.fourier_heatmap.engine import Engine
from hfc_probe.measurements.fourier_heatmap.run import Run
from hfc_probe.model.subject import subject_of
from tests.benchmarks.test_probe_cost import small_resnet
from tests.toys import Tally

BATCH, CPU = 128, torch.device("cpu")
# What was asked, the bound, and what was found.
Found = Iterator[tuple[str, str, str]]


class Watched(nn.Module):
    """A model whose passes are counted and timed."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.tally = model, Tally(processor=0.0, images=0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        began = time.process_time()
        logits = self.model(images)
        self.tally["processor"] += time.process_time() - began
        self.tally["images"] += len(images)
        return logits


def in_another_process(name: str, *arguments: str) -> dict[str, Any]:
    """What ``name(*arguments)`` of this file returns there, as JSON."""
    ended = subprocess.run(
        [sys.executable, __file__, "--call", name, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if ended.returncode:
        raise RuntimeError(f"{name} ended with {ended.returncode}: {ended.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def curves(rounds: int) -> Found:
    model, samples = network("resnet20")
    samples, measurement = samples.subset(256), FrequencyAccuracy()
    passes = 2 * len(measurement.radii_for(32, 32)) + 1
    middle, spread = ratio(
        lambda: measurement.measure(model, samples, pixels=IMAGENET, batch_size=BATCH),
        lambda: [plain(model, samples, BATCH, CPU) for _ in range(passes)],
        max(2, rounds),
        CPU,
    )
    yield "curves / (2R + 1) plain passes", "1.03", f"{middle:.3f} ± {spread:.3f}"


def outside(rounds: int) -> Found:
    """Shares of a probe's processor time: the passes, transforms and counting, and the log."""
    model, samples = network("resnet20")
    model, samples = Watched(model), samples.subset(256)
    plan = [FrequencyAccuracy(), KernelSpectra()]
    from torch.utils.tensorboard import SummaryWriter

    with (
        tempfile.TemporaryDirectory() as folder,
        SummaryWriter(folder) as writer,
        hfc_probe.attach(model, samples, pixels=IMAGENET, measurements=plan) as probe,
    ):

        def log() -> None:
            for result in probe.results.values():
                result.log(writer, 0)

        probe.measure()
        log()  # imports what it needs
        rows = []
        for _ in range(rounds):
            model.tally.update(processor=0.0)
            whole = seconds(probe.measure)["processor"]
            logging = seconds(log)["processor"]
            measuring = whole - model.tally["processor"]
            rows.append({"measuring": measuring, "logging": logging, "whole": whole + logging})
    middle = medians(rows)
    for part in ("measuring", "logging"):
        share = 100 * middle[part] / middle["whole"]
        yield f"probe outside its passes, {part}, of its own time", "1 %", f"{share:.1f} %"


def fit(rounds: int, count: int = 1000) -> Found:
    """Share of fits in the time of the passes, on a network that trains on between its maps."""
    model, _ = network("resnet20")
    images, labels = images_of("test")
    samples = Samples(images[:count], labels[:count])
    directions = FourierHeatmap().directions(32, 32)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)
    memory = None
    for what, share in (("first, 2 %", 0.02), ("later, 1 %", 0.01), ("later, 0.4 %", 0.004)):
        if memory is not None:
            model.train()
            for start in range(0, 512, 64):
                part = slice(2000 + start, 2064 + start)
                loss = F.cross_entropy(model(PIXELS.normalize(images[part] / 255)), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        spent = []

        class Timed(Engine):
            """The engine, which notes its passes' processor time."""

            def _forward(self, *arguments: Any, spent: list[float] = spent, **named: Any) -> Any:
                began = time.process_time()
                found = super()._forward(*arguments, **named)
                spent.append(time.process_time() - began)
                return found

        settings = FourierHeatmap(forwards=int(share * count * (len(directions) + 1)))
        with subject_of(model.eval(), samples, pixels=IMAGENET, batch_size=BATCH) as subject:
            engine = Timed(subject, samples, directions, norm=4.0, seed=0)
            run = Run(settings, engine, settings.grid(32, 32), 4.0, time.perf_counter(), memory)
            began = time.process_time()
            result = run.model()
            whole = time.process_time() - began
        memory = result.memory
        extra = 100 * (whole / sum(spent) - 1)
        yield (
            f"fit of the heatmap / its passes, {what}",
            "5 %",
            f"{extra:.1f} % ({result.passes} passes in {sum(spent):.1f} s)",
        )


def schedule(rounds: int, epochs: int = 4, count: int = 50_000) -> Found:
    """The default schedule on a small residual network and all of CIFAR-10, by wall clock."""
    images, labels = (x[:count] for x in images_of("train"))
    test = Samples(*(x[:1000] for x in images_of("test")))
    torch.manual_seed(0)
    model = small_resnet()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        probe = hfc_probe.attach(
            model, test, optimizer=optimizer, log_dir=folder, pixels=PIXELS, final=False
        )
        began = time.perf_counter()
        for _ in range(epochs):
            order = torch.randperm(len(images))
            for part in order.split(BATCH):
                batch = augmented(images[part]).float() / 255
                loss = F.cross_entropy(model(PIXELS.normalize(batch)), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            probe.end_epoch()
        state = probe.state_dict()
        epoch = (time.perf_counter() - began - state["spent"]) / epochs
        probe.close()
    runs = {k: f"{v['runs']} of {v['due']}" for k, v in state["measurements"].items()}
    each = {k: state["seconds"][k] for k in ("frequency_accuracy", "fourier_heatmap")}
    share = 100 * state["spent"] / state["elapsed"]
    yield f"share of the default schedule, {epochs} epochs", "5 %", f"{share:.1f} % of wall time"
    yield "heatmaps in it", "every epoch", f"{runs['fourier_heatmap']} ({runs})"
    yield (
        "epochs that pay curves and a heatmap each",
        "as short as may be",
        f"from {sum(each.values()) / 0.05:.0f} s on: "
        + ", ".join(f"{name} {value:.1f} s" for name, value in each.items())
        + f"; one here takes {epoch:.0f} s",
    )


class Photographs(Dataset[Any]):
    """Random images of 224 px from 8 bits, made when they are read."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(256, (1, 3, 224, 224), generator=generator, dtype=torch.uint8)
        return IMAGENET.normalize(image.float() / 255)[0], index % 10


def peak(kind: str, images: str = "1000") -> dict[str, Any]:
    """Peak memory of a training at 224 px beyond its start, in MB, with and without a probe."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(7), small_resnet())
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    loader = DataLoader(Photographs(int(images)), batch_size=64)
    with tempfile.TemporaryDirectory() as folder:
        from torch.utils import tensorboard  # noqa: F401 - its memory is not the probe's

        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        probe = None
        if kind == "probe":
            probe = hfc_probe.attach(
                model, loader, optimizer=optimizer, log_dir=folder, pixels=IMAGENET, final=False
            )
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
        if probe is not None:
            probe.measure()
            probe.close()
    return {"MB": (_status("VmHWM") - before) / 1024}


def memory(rounds: int) -> Found:
    with_probe, without = (in_another_process("peak", kind)["MB"] for kind in ("probe", "plain"))
    yield (
        "memory of a default probe at 224 px, limit 1,000",
        "250 MB",
        f"{with_probe - without:.0f} MB (peaks {with_probe:.0f} and {without:.0f} MB)",
    )


def on_a_rank(rank: str, world: str, port: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    model, samples = network("resnet20")
    if int(world) > 1:
        os.environ.update(RANK=rank, WORLD_SIZE=world, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        torch.distributed.init_process_group("gloo")
    plan = [FrequencyAccuracy()]
    with hfc_probe.attach(model, samples, pixels=IMAGENET, measurements=plan) as probe:
        probe.measure()
        taken = seconds(probe.measure)
    if int(world) > 1:
        torch.distributed.destroy_process_group()
    return taken


def ranks(rounds: int) -> Found:
    from concurrent.futures import ThreadPoolExecutor

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = in_another_process("on_a_rank", "0", "1", port)
    with ThreadPoolExecutor() as pool:
        call = [pool.submit(in_another_process, "on_a_rank", r, "2", port) for r in ("0", "1")]
        two = [one.result() for one in call]
    for clock in ("wall", "processor"):
        gain = alone[clock] / max(one[clock] for one in two)
        yield f"one rank / two, curves, {clock} time", "at least 1.9", f"{gain:.2f}"


def coco_like(images: int, variants: tuple[str, ...]) -> tuple[GroundTruth, dict[str, Any]]:
    """Random objects in the numbers of val2017, and detections of ever worse variants."""
    rng = np.random.default_rng(0)
    objects = rng.poisson(7.3, images)
    usual = rng.dirichlet(np.full(80, 0.3)) * 0.9 + 0.1 / 80
    content: dict[str, Any] = {
        "images": [
            {"id": k, "file_name": f"{k}.jpg", "height": 480, "width": 640} for k in range(images)
        ],
        "categories": [{"id": k + 1, "name": f"class {k + 1}"} for k in range(80)],
        "annotations": [],
    }
    found: dict[str, dict[int, Detections]] = {name: {} for name in variants}
    for k, count in enumerate(objects):
        sides = np.exp(rng.normal(4.0, 1.0, (count, 2))).clip(4, 400)
        boxes = np.concatenate([rng.random((count, 2)) * (640, 480) * 0.6, sides], 1)
        labels = rng.choice(80, count, p=usual) + 1
        content["annotations"] += [
            {
                "id": len(content["annotations"]) + n + 1,
                "image_id": k,
                "category_id": int(label),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3]) * 0.7,
                "iscrowd": 0,
            }
            for n, (box, label) in enumerate(zip(boxes, labels, strict=True))
        ]
        for level, name in enumerate(variants):
            more = rng.integers(20, 60)
            near = boxes + rng.normal(0, 0.03 + 0.03 * level, boxes.shape) * np.tile(sides, 2)
            away = np.concatenate(
                [rng.random((more, 2)) * (400, 300), np.exp(rng.normal(4, 1, (more, 2)))], 1
            )
            right = rng.random(count) < 0.9 - 0.1 * level
            found[name][k] = Detections(
                np.concatenate([near, away]).clip(1),
                np.concatenate([rng.beta(3, 2, count), rng.beta(1, 6, more)]),
                np.concatenate(
                    [np.where(right, labels, 1), rng.choice(80, more, p=usual) + 1]
                ).astype(np.int64),
            )
    return GroundTruth.read(content), found


def evaluated(images: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    audit = DetectionAudit(radii=(32, 64, 128), bootstrap=1000)
    truth, found = coco_like(int(images), audit.variants)
    detections = sum(len(one.scores) for one in found["original"].values())
    taken = seconds(lambda: audit.evaluate(truth, found))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return taken | {"GB": most, "detections": detections}


def coco(rounds: int, images: int = 5000) -> Found:
    found = in_another_process("evaluated", str(images))
    yield (
        f"COCO evaluation, {images:,} images × 7 variants × 1,000 replicates",
        "60 s, 2 GB",
        f"{found['processor']:.0f} s, {found['GB']:.2f} GB, detections and all "
        f"({found['detections']:,} detections a variant)",
    )


ROWS: dict[str, Callable[[int], Found]] = {
    row.__name__: row for row in (curves, outside, fit, schedule, memory, ranks, coco)
}
CALLED: dict[str, Callable[..., dict[str, Any]]] = {
    call.__name__: call for call in (peak, on_a_rank, evaluated)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3, help="medians of as many")
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        name, *arguments = options.call
        print(json.dumps(CALLED[name](*arguments)))
        return
    unknown = set(options.rows) - ROWS.keys()
    if unknown:
        parser.error(f"rows: expected some of {', '.join(ROWS)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    print(f"commit {commit()}, torch {torch.__version__}, one thread\n")
    print("| row | what | at most | measured |")
    print("|---|---|---|---|")
    for name in options.rows or ROWS:
        torch.manual_seed(0)
        began = time.perf_counter()
        for what, bound, measured in ROWS[name](options.rounds):
            print(f"| {name} | {what} | {bound} | {measured} |", flush=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
