"""What each rank does in tests/test_sharing.py: ``python tests/ranks.py OUT SECONDS SCENE …``.

SECONDS is the process group's timeout. Every scene leaves OUT/scene-rank.pickle.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import pickle
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import hfc_probe
from hfc_probe import Every, FrequencyAccuracy, KernelSpectra, Samples
from hfc_probe.measurements import registry

OUT, SECONDS, SCENES = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
RANK = int(os.environ.get("RANK", "0"))
WORLD = int(os.environ.get("WORLD_SIZE", "1"))

SETTINGS = {
    "adversarial_accuracy": {"rhos": (0, 0.5), "epsilons": (0.05,), "steps": 2, "samples": 600},
    "band_attribution": {"permutations": 2, "samples": 600},
    "calibration": {"resamples": 20},
    "corruption_accuracy": {"severities": (2, 4), "samples": 600},
    "critical_band": {"strengths": (0.1, 0.3), "samples": 600},
    "fourier_heatmap": {"norm": 1.0, "samples": 600, "crop": 3},
}
HEATMAPS = [
    {"norm": 2.0, "samples": 600, "crop": 3, "forwards": 1500},
    {"norm": 3.0, "samples": 600, "crop": 3, "precision": 0.08},
    {"norm": 4.0, "samples": 600, "radial": True},
]


class Counting(nn.Module):
    """A small network that counts the images it is shown, and can be told to fail."""

    def __init__(self, slow=0.0):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 4),
        )
        self.seen, self.slow = 0, slow
        self.on_batch = lambda: None

    def forward(self, x):
        if not self.training:
            self.seen += len(x)
            self.on_batch()
            time.sleep(self.slow)
        return self.net(x)


def samples(seed=0, count=1200):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 16, 16, generator=generator)
    return Samples(images, torch.randint(4, (count,), generator=generator))


def save(name, value):
    (OUT / f"{name}-{RANK}.pickle").write_bytes(pickle.dumps(value))


def arrays(probe):
    return {key: result.arrays() for key, result in probe.results.items()}


def batches(count, seed):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.rand(8, 3, 16, 16, generator=generator), torch.arange(8) % 4


def step(model, optimizer, images, targets):
    nn.functional.cross_entropy(model(images), targets).backward()
    optimizer.step()
    optimizer.zero_grad()


def everything():
    """All measurements, and the heatmap's other estimators."""
    model = Counting(slow=0.002)
    kinds = [kind(**SETTINGS.get(name, {})) for name, kind in registry.MEASUREMENTS.items()]
    if importlib.util.find_spec("torchmetrics") is None:  # the extra "calibration"
        kinds = [kind for kind in kinds if kind.name != "calibration"]
    kinds += [hfc_probe.FourierHeatmap(**settings) for settings in HEATMAPS]
    with hfc_probe.attach(model, samples(), measurements=kinds, limit=None, strict=True) as probe:
        probe.measure()
    save("everything", (arrays(probe), model.seen))


def training():
    """BatchNorm's buffers differ from rank to rank; what counts are those of rank 0."""
    inner = Counting(slow=0.002).train()
    inner.register_buffer("table", torch.ones(2_500_000))  # more than a store takes at once
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    curves = FrequencyAccuracy(radii=(1, 2, 3))
    plan = {curves: Every(steps=3), KernelSpectra(): Every(steps=2)}
    log = OUT / "log"
    with hfc_probe.attach(
        model,
        samples(),
        optimizer=optimizer,
        log_dir=log,
        measurements=plan,
        budget=1.0,
        limit=None,
    ) as probe:
        for images, targets in batches(6, seed=RANK):
            step(model, optimizer, images, targets)
        seen, found = inner.seen, arrays(probe)
        alone = curves.measure(inner, samples()).arrays() if RANK == 0 else None
        distributed.barrier()
    save("training", (found, alone, seen, {k: v.clone() for k, v in inner.state_dict().items()}))


def budget():
    """An expensive measurement, put off and tried again at the same steps on all ranks."""
    inner = Counting(slow=0.03).train()
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = {FrequencyAccuracy(radii=(1, 2, 3)): Every(steps=1)}
    with hfc_probe.attach(
        model, samples(), optimizer=optimizer, measurements=plan, budget=0.5, limit=None
    ) as probe:
        begin = time.perf_counter()
        for images, targets in batches(60, seed=RANK):
            step(model, optimizer, images, targets)
            time.sleep(0.02)
        took = time.perf_counter() - begin
        save("budget", (probe._budget.spent, took, inner.seen, probe._entries[0].runs))


def uneven():
    """Rank 1 has fewer batches: torch's own Join lets rank 0 train on alone."""
    from torch.distributed.algorithms.join import Join

    inner = Counting().train()
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plan = {FrequencyAccuracy(radii=(1, 2)): Every(steps=2, epochs=1)}
    with hfc_probe.attach(
        model, samples(), optimizer=optimizer, measurements=plan, budget=1.0
    ) as probe:
        for _ in range(2):
            with Join([model]):
                for images, targets in batches(6 - 3 * RANK, seed=RANK):
                    step(model, optimizer, images, targets)
            probe.end_epoch()
        save("uneven", (probe.steps, probe._entries[0].runs, arrays(probe)))


def only_rank_0():
    probe = None
    if RANK == 0:
        probe = hfc_probe.attach(
            Counting(), samples(), measurements=[FrequencyAccuracy(radii=(1, 2))]
        )
        probe.measure()
    distributed.barrier()
    save("only_rank_0", arrays(probe) if probe else {})


def others(how):
    """Rank 1 cannot or may not help; rank 0 does its part."""
    model = Counting(slow=0.02)
    calls = itertools.count()

    def on_batch():
        if RANK == 0 or next(calls) < 3:
            return
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("rank 1 has no more memory (planted)")

    if how in ("dies", "fails"):
        model.on_batch = on_batch
    if how == "other weights":
        with torch.no_grad():
            model.net[0].weight[0, 0, 0, 0] += RANK
    data = samples(seed=RANK if how == "other images" else 0)
    radii = (1, 2, 4) if how == "other settings" and RANK else (1, 2, 3)
    with hfc_probe.attach(model, data, measurements=[FrequencyAccuracy(radii=radii)]) as probe:
        probe.measure()
        if how == "dies" and RANK == 0:
            save(how, (arrays(probe), model.seen))
            os._exit(0)  # the process group is broken, nobody waits for its end
    save(how, (arrays(probe), model.seen))


def less_memory():
    """Batches that rank 0 has memory for are too large for rank 1, which halves them."""
    model = Counting(slow=0.05)

    def forward(x):
        if not model.training and RANK and len(x) > 100:
            raise MemoryError("planted")
        return Counting.forward(model, x)

    heatmap = hfc_probe.FourierHeatmap(norm=1.0, samples=1200, crop=3)
    model.forward = forward
    with hfc_probe.attach(model, samples(), measurements=[heatmap], limit=None) as probe:
        probe.measure()
        found = arrays(probe)
    alone = heatmap.measure(model, samples()).arrays() if RANK == 0 else None
    save("less_memory", (found, alone, model.seen))


def leader_raises():
    """The user catches what a strict probe raises on rank 0, twice, and goes on."""
    model = Counting(slow=0.02)
    curves = FrequencyAccuracy(radii=(1, 2, 3))
    with hfc_probe.attach(model, samples(), measurements=[curves], strict=True) as probe:
        begin = time.perf_counter()
        for k in range(3):
            if RANK == 0 and k < 2:
                model.forward = lambda x: 1 / 0
            try:
                probe.measure()
            except ZeroDivisionError:
                del model.forward
        took = time.perf_counter() - begin
    save("leader_raises", (arrays(probe), model.seen, took))


def ended():
    """The process group is gone before the probe is closed."""
    model = Counting()
    with hfc_probe.attach(model, samples(), measurements=[FrequencyAccuracy(radii=(1,))]) as probe:
        probe.measure()
        distributed.barrier()
        distributed.destroy_process_group()
        seen = model.seen
        probe.measure()
    save("ended", (arrays(probe), model.seen - seen))


def leader_dies():
    model = Counting(slow=0.05)

    def on_batch():
        if RANK == 0 and model.seen > 2000:
            os.kill(os.getpid(), signal.SIGKILL)

    model.on_batch = on_batch
    with hfc_probe.attach(
        model, samples(), measurements=[FrequencyAccuracy(radii=(1, 2, 3))], limit=None
    ) as probe:
        probe.measure()
    save("leader_dies", model.seen)
    os._exit(0)


def skewed():
    """The user restored rank 0's probe only: nobody waits for long, training goes on."""
    inner = Counting().train()
    model = DistributedDataParallel(inner)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with hfc_probe.attach(
        model,
        samples(),
        optimizer=optimizer,
        measurements={FrequencyAccuracy(radii=(1,)): Every(steps=1)},
        budget=1.0,
    ) as probe:
        if RANK == 1:
            probe.load_state_dict(probe.state_dict() | {"steps": 5000, "epochs": 5})
        begin = time.perf_counter()
        for images, targets in batches(8, seed=RANK):
            step(model, optimizer, images, targets)
        save("skewed", (probe._entries[0].runs, time.perf_counter() - begin))


def sharded():
    """FSDP2, with and without the probe, and what one process measures on the whole weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from hfc_probe.sharded import gathered

    curves = FrequencyAccuracy(radii=(1, 2, 3))
    heatmap = hfc_probe.FourierHeatmap(norm=1.0, samples=300, crop=3)
    plan = {curves: Every(steps=2), KernelSpectra(): Every(steps=1), heatmap: Every(steps=3)}
    ends = []
    for probed in (False, True):
        torch.manual_seed(0)
        model = Counting(slow=0.002).train()
        for part in (model.net[0], model.net[4], model):
            fully_shard(part, mesh=init_device_mesh("cpu", (WORLD,)))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        probe = None
        if probed:
            log = OUT / "sharded"
            probe = hfc_probe.attach(
                model, samples(), optimizer=optimizer, log_dir=log, measurements=plan, budget=1.0
            )
        for images, targets in batches(4, seed=RANK):
            step(model, optimizer, images, targets)
        whole = gathered(model)
        alone = curves.measure(whole, samples(), limit=1000).arrays() if RANK == 0 else None
        distributed.barrier()
        model(torch.ones(2, 3, 16, 16)).sum().backward()
        ends.append(
            (
                {k: getattr(v, "_local_tensor", v).clone() for k, v in model.state_dict().items()},
                [p.grad._local_tensor.clone() for p in model.parameters()],
                [v["exp_avg"]._local_tensor.clone() for v in optimizer.state.values()],
                torch.get_rng_state(),
                [m.training for m in model.modules()],
            )
        )
    save("sharded", (*ends, arrays(probe), alone))
    probe.load_state_dict(probe.state_dict() | {"steps": 1})
    runs = [entry.runs for entry in probe._entries]
    probe.measure()
    save("rolled back", [e.runs - before for e, before in zip(probe._entries, runs, strict=True)])
    probe.close()


def main():
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    if WORLD > 1:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
    for name in SCENES:
        torch.manual_seed(0)
        scene = globals().get(name)
        if scene is None:
            others(name)
        else:
            scene()
        if distributed.is_initialized():
            distributed.barrier()
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
