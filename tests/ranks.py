"""What each rank does in tests/test_ranks.py: ``python tests/ranks.py OUT SECONDS SCENE …``.

SECONDS is the process group's timeout. Every scene leaves OUT/scene-rank.pickle. The scenes from
``ended`` on run without that group: each rank by itself, and then the command line, which makes
a group of its own, as under ``torchrun``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import pickle
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import hfc_probe
from hfc_probe import Every, FrequencyAccuracy, InputError, KernelSpectra, Samples, ranks
from hfc_probe.measurements import registry

sys.path.insert(0, str(Path(__file__).resolve().parent))
from toys import Tally

OUT, SECONDS, SCENES = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
CIFAR = Path(__file__).resolve().parents[2] / "shared" / "data" / "cifar10"
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
        self.tally, self.slow = Tally(seen=0), slow
        self.on_batch = lambda: None

    def forward(self, x):
        if not self.training:
            self.tally["seen"] += len(x)
            self.on_batch()
            time.sleep(self.slow)
        return self.net(x)

    @property
    def seen(self):
        return self.tally["seen"]


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
    save("everything", measure_everything())


def measure_everything():
    """All measurements, and the heatmap's other estimators."""
    model = Counting()
    kinds = [kind(**SETTINGS.get(name, {})) for name, kind in registry.MEASUREMENTS.items()]
    if importlib.util.find_spec("captum") is None:  # the extra "attribution"
        kinds = [kind for kind in kinds if kind.name != "band_attribution"]
    kinds += [hfc_probe.FourierHeatmap(**settings) for settings in HEATMAPS]
    with hfc_probe.attach(model, samples(), measurements=kinds, limit=None, strict=True) as probe:
        probe.measure()
    return arrays(probe), model.seen


def later_maps():
    save("later_maps", measure_later_maps())


def later_maps_alone():
    if RANK == 0:
        save("later_maps_alone", measure_later_maps())


def measure_later_maps():
    """A heatmap that starts from the last one, which rank 1 does not remember; and a first one."""
    model, found = Counting(), []
    heatmap = hfc_probe.FourierHeatmap(norm=2.0, samples=300, crop=5, forwards=1500)
    with hfc_probe.attach(model, samples(), measurements=[heatmap], strict=True) as probe:
        probe.measure()
        for _ in range(2):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1)
            if RANK == 1:
                probe.results.clear()
            probe.measure()
            found.append(arrays(probe))
    with hfc_probe.attach(model, samples(), measurements=[heatmap], strict=True) as probe:
        probe.measure()
        found.append(arrays(probe))
    return found


def sets():
    save("sets", measure_sets())


def sets_alone():
    if RANK == 0:
        save("sets_alone", measure_sets())


def measure_sets():
    """Two sets of images in one probe, of which measurements share the original images' passes."""
    kinds = [FrequencyAccuracy(radii=(1, 2)), hfc_probe.Calibration((1,), resamples=5)]
    data = {"train": samples(0, 600), "val": samples(1, 900)}
    with hfc_probe.attach(Counting(), data, measurements=kinds, strict=True) as probe:
        probe.measure()
    return arrays(probe)


def training():
    """BatchNorm's buffers differ from rank to rank; what counts are those of rank 0."""
    inner = Counting().train()
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

    ranks.AT_MEASUREMENT = 1.0
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
    """The usual place of an evaluation; the training's next group must still come about."""
    ranks.AT_ATTACH = 2.0
    found, began = {}, time.perf_counter()
    if RANK == 0:
        curves = FrequencyAccuracy(radii=(1, 2))
        probe = hfc_probe.attach(Counting(), samples(), measurements=[curves])
        found = {"frequency_accuracy": probe.measure()["frequency_accuracy"].arrays()}
        probe.close()
    took = time.perf_counter() - began
    distributed.barrier(group=distributed.new_group())
    # Together again: where ranks met in vain nobody waits a second time.
    ranks.AT_ATTACH = 20.0
    with hfc_probe.attach(Counting(), samples(), measurements=[curves_of(2)]) as probe:
        probe.measure()
        together = probe._meeting.together is not None
    save("only_rank_0", (found, took, together))


def curves_of(radius):
    return FrequencyAccuracy(radii=(radius,))


def alone_at_a_measurement():
    ranks.AT_MEASUREMENT = 1.0
    model = Counting()
    with hfc_probe.attach(model, samples(), measurements=[curves_of(2)]) as probe:
        probe.measure()
        seen, began = model.seen, time.perf_counter()
        for _ in range(3):
            if RANK == 0:
                probe.measure()
        took = time.perf_counter() - began
        distributed.barrier(group=distributed.new_group())
        save("alone_at_a_measurement", (arrays(probe), model.seen - seen, took))


def fails():
    """Rank 1 fails in mid-measurement: all of them say so, and the next time they go on."""
    model = Counting()

    def on_batch():
        if RANK == 1 and model.seen > 500:
            raise RuntimeError("planted")

    model.on_batch = on_batch
    with hfc_probe.attach(model, samples(), measurements=[curves_of(2)], strict=True) as probe:
        try:
            probe.measure()
            said = ""
        except RuntimeError as error:
            said = str(error)
        model.on_batch = lambda: None
        probe.measure()
        save("fails", (said, arrays(probe)))


def other_weights():
    model = Counting()
    with torch.no_grad():
        model.net[0].weight[0, 0, 0, 0] += RANK
    with hfc_probe.attach(model, samples(), measurements=[curves_of(2)]) as probe:
        probe.measure()
        seen = model.seen
        alone = curves_of(2).measure(model, samples(), limit=1000).arrays()
        save("other_weights", (arrays(probe), alone, seen - 12))  # the first look at the model


def other_images():
    try:
        hfc_probe.attach(Counting(), samples(seed=RANK), measurements=[curves_of(2)])
        said = ""
    except InputError as error:
        said = str(error)
    save("other_images", said)


def less_memory():
    """Batches that rank 0 has memory for are too large for rank 1: all of them halve theirs."""
    model = Counting()

    def forward(x):
        if not model.training and RANK and len(x) > 100:
            raise MemoryError("planted")
        return Counting.forward(model, x)

    model.forward = forward
    with hfc_probe.attach(model, samples(), measurements=[curves_of(2)], limit=None) as probe:
        probe.measure()
    del model.forward
    alone = curves_of(2).measure(model, samples()).arrays()
    save("less_memory", (arrays(probe), alone))


def detection_on_rank_0():
    """The usual place of an evaluation: a result within seconds, and no group is touched."""
    from detection.known_answer import PlantedShapes

    from hfc_probe.detection import DetectionAudit

    ranks.AT_ATTACH = 2.0
    began, scalars = time.perf_counter(), {}
    if RANK == 0:
        data = PlantedShapes(4, seed=0)

        def detector(images):
            """What is in the picture that looks most like the image."""
            found = []
            for image in images:
                near = min(data.pictures, key=lambda i: float((data.pictures[i] - image).norm()))
                boxes, labels = data.targets[near]["boxes"], data.targets[near]["labels"]
                found.append((boxes, torch.ones(len(boxes)), labels))
            return found

        scalars = DetectionAudit(radii=(16,)).measure(detector, data).scalars()
    took = time.perf_counter() - began
    distributed.barrier(group=distributed.new_group())
    save("detection_on_rank_0", (scalars, took))


def ended():
    """The process group is gone before the probe is closed."""
    model = Counting()
    with hfc_probe.attach(model, samples(), measurements=[FrequencyAccuracy(radii=(1,))]) as probe:
        probe.measure()
        distributed.barrier()
        distributed.destroy_process_group()
        seen = model.seen
        probe.measure()
    save("ended", model.seen - seen)


def skewed():
    """The user restored rank 0's probe only: nobody waits for long, training goes on."""
    ranks.AT_MEASUREMENT = 1.0
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


def fsdp2(model):
    from torch.distributed.device_mesh import init_device_mesh

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # torch < 2.6
        from torch.distributed._composable.fsdp import fully_shard

    for part in (model.net[0], model.net[4], model):
        fully_shard(part, mesh=init_device_mesh("cpu", (WORLD,)))
    return model


def fsdp1(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


def fsdp1_flat(model):
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def tensor_parallel(model):
    from torch.distributed._tensor import Replicate  # its name in torch 2.4, too
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    whole = ColwiseParallel(output_layouts=Replicate())
    parallelize_module(model.net, init_device_mesh("cpu", (WORLD,)), {"4": whole})
    return model


def sharded(how):
    """A sharded model with and without the probe, and what one process measures on plain ones."""
    curves = FrequencyAccuracy(radii=(1, 2, 3))
    heatmap = hfc_probe.FourierHeatmap(norm=1.0, samples=300, crop=3)
    groups = hfc_probe.ComponentExamples(radii=(1, 2, 3))
    plan = {curves: Every(steps=2), groups: Every(steps=2)}
    plan |= {KernelSpectra(): Every(steps=1), heatmap: Every(steps=4)}
    seed = 0 if how is tensor_parallel else RANK  # its layers need the same images everywhere
    ends, found, whole = [], {}, {}
    for probed in (False, True):
        torch.manual_seed(0)
        plain = Counting().train()
        model = how(plain)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        probe = None
        if probed:
            probe = hfc_probe.attach(
                model, samples(), optimizer=optimizer, measurements=plan, budget=1.0, strict=True
            )
        for images, targets in batches(4, seed=seed):
            step(model, optimizer, images, targets)
        if probed:
            found = arrays(probe)
            passes = probe.results["component_examples"].provenance["passes"]
            assert passes == 0, passes  # those of the curves, on each rank
            probe.close()
        whole = {k: v.clone() for k, v in whole_state(model).items()}
        model(torch.ones(2, 3, 16, 16)).sum().backward()
        ends.append(
            (
                [local(p) for p in model.parameters()],
                [local(p.grad) for p in model.parameters() if p.grad is not None],
                [local(b) for b in model.buffers()],
                [local(v["momentum_buffer"]) for v in optimizer.state.values()],
                torch.get_rng_state(),
                [m.training for m in model.modules()],
            )
        )
    alone = Counting()
    alone.load_state_dict({k.replace("_fsdp_wrapped_module.", ""): v for k, v in whole.items()})
    expected = {
        one.name: one.measure(alone, samples(), limit=1000).arrays() for one in (curves, groups)
    }
    # Confidences of tensor parallelism, which sums in another order, differ in the last digit.
    counts = expected["component_examples"]
    expected["component_examples"] = {k: v for k, v in counts.items() if k.endswith("_correct")}
    expected["kernel_spectra"] = KernelSpectra().measure(alone).arrays()
    save(how.__name__, (*ends, found, expected))


def local(tensor):
    return getattr(tensor, "_local_tensor", tensor).detach().clone()


def whole_state(model):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=False)
    if any(hasattr(p, "full_tensor") for p in model.parameters()):
        return {
            k: v.full_tensor() if hasattr(v, "full_tensor") else v
            for k, v in model.state_dict().items()
        }
    state = get_model_state_dict(model, options=options)
    everyone = [state]
    distributed.broadcast_object_list(everyone, src=0)
    return everyone[0]


def everything_alone():
    """On rank 0; there is no process group any more."""
    if RANK == 0:
        save("everything_alone", measure_everything())


def command(name, *options):
    """``hfc-probe audit`` in this process: its exit status and what it says."""
    from hfc_probe.cli.main import main

    said, status = io.StringIO(), 0
    model = ["--model", "examples/cifar_resnet.py:resnet20", "--normalize", "imagenet"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main(["audit", *model, "--out", str(OUT / name), *options])
        except SystemExit as end:
            status = end.code
    save(name, (status, said.getvalue()))


def audit():
    """By one process, then by both, which meet at a port of their own."""
    options = ["--weights", str(CIFAR / "resnet20.pth"), "--data", f"npz:{CIFAR / 'test.npz'}"]
    options += ["--radii", "8", "--measure", "fourier_heatmap:crop=3,forwards=300"]
    options += ["--limit", "96", "--batch-size", "32"]
    if RANK == 1:
        own = {name: os.environ.pop(name) for name in ("WORLD_SIZE", "RANK")}
        command("audit_alone", *options)
        os.environ.update(own)
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    command("audit", *options)


def bad_input():
    command("bad_input", "--data", f"npz:{OUT / 'no.npz'}")


def main():
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    if WORLD > 1:
        distributed.init_process_group("gloo", timeout=timedelta(seconds=SECONDS))
    for name in SCENES:
        torch.manual_seed(0)
        ranks.AT_ATTACH, ranks.AT_MEASUREMENT = 15.0, 30.0
        scene = globals()[name]
        if scene in (fsdp1, fsdp1_flat, fsdp2, tensor_parallel):
            sharded(scene)
        else:
            scene()
        if distributed.is_initialized():
            distributed.barrier()
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
