"""One of two processes that shard models; writes what it found as JSON.

Run by ``test_sharded.py``: ``python sharded_worker.py RANK FOLDER``.
"""

from __future__ import annotations

import datetime
import json
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import hfc_probe
from hfc_probe import kernels, sharded

# Before anything below imports what only sharded models need.
HEAVY = ("torch.distributed.tensor", "torch.distributed.fsdp")
PLAIN = [
    sharded.is_sharded(nn.Linear(2, 2)),
    [name for name in sys.modules if name.startswith(HEAVY)],
]

import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from tests.sharded_models import Attention, Conv, Tangled

warnings.filterwarnings("ignore")
RANK, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
HALF = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def make(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return kind()


def shard(model: nn.Module, *, nested: bool = True, mesh=None, **options) -> nn.Module:
    if nested:
        for module in list(model.modules())[1:]:
            # Sequential blocks and LSTM; the tied head stays with its embedding in the root.
            if isinstance(module, (nn.Sequential, nn.LSTM, nn.MultiheadAttention)):
                fully_shard(module, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


@torch.no_grad()
def logits(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    return model.eval()(images)


def facts(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict:
    """Everything that training has, bit by bit; reading it communicates and changes nothing."""

    def local(tensor):
        tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        return tensor.detach().clone()

    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {f"parameter {n}": local(p) for n, p in model.named_parameters()}
    found |= {f"gradient {n}": local(p.grad) for p, n in names.items() if p.grad is not None}
    found |= {f"buffer {n}": b.clone() for n, b in model.named_buffers()}
    found |= {f"module {n}": type(m).__name__ for n, m in model.named_modules()}
    found |= {f"training {n}": m.training for n, m in model.named_modules()}
    for name, module in model.named_modules():
        found[f"hooks {name}"] = [
            (key, [getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks.values()])
            for key, hooks in vars(module).items()
            if key.endswith("_hooks")
        ]
        found[f"attributes {name}"] = [key for key in vars(module) if key != "last"]
    if optimizer is not None:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                found[f"optimizer {names[parameter]} {key}"] = local(torch.as_tensor(value))
    found["rng"] = torch.get_rng_state()
    found["random"] = [random.random(), float(np.random.rand())]
    if hasattr(model, "seen"):
        found["own state"] = [len(model.seen), model.noise.get_state()]
    return found


def differences(one: dict, other: dict) -> list[str]:
    def same(a, b):
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, (list, tuple)):
            return len(a) == len(b) and all(map(same, a, b))
        return a == b

    return sorted(one.keys() ^ other.keys()) + [
        key for key in one.keys() & other.keys() if not same(one[key], other[key])
    ]


def stand_ins() -> dict[str, tuple[nn.Module, nn.Module, nn.Module]]:
    """Models that were never sharded, the same sharded, and their stand-ins."""
    mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    ways = {
        "root only": {"nested": False},
        "nested, bf16": {"mp_policy": HALF},
        "replicated": {"mesh": mesh},
    }
    made = {}
    for kind in (Conv, Attention, Tangled):
        for how, options in ways.items():
            model = shard(make(kind), **options)
            made[f"{kind.__name__}, {how}"] = make(kind), model, sharded.gathered(model)
    return made


def compared(plain: nn.Module, model: nn.Module, stand_in: nn.Module) -> dict:
    return {
        "was sharded": sharded.is_sharded(model) and not sharded.is_sharded(stand_in),
        "logits": torch.equal(logits(stand_in), logits(plain)),
        "parameter names": names(stand_in) == names(plain),
        "classes": classes(stand_in) == classes(plain) != classes(model),
        "requires_grad": flags(stand_in) == flags(plain),
        "own memory": not memory(stand_in) & memory(model),
    }


def memory(model: nn.Module) -> set[int]:
    tensors = [*model.parameters(), *model.buffers()]
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return {t.untyped_storage().data_ptr() for t in local if t.numel()}


def names(model: nn.Module) -> list[str]:
    # With duplicates: tied weights must be tied, not only equal.
    tied = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return [name for name, _ in model.named_parameters()] + tied


def classes(model: nn.Module) -> list[str]:
    return [f"{name} {type(module).__name__}" for name, module in model.named_modules()]


def flags(model: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in model.parameters()]


def train(kind: type[nn.Module], measure: bool, **options) -> dict:
    """A short training run, with or without stand-ins made and used at every turn."""
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    model = shard(make(kind), **options)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def look() -> None:
        before = {name: id(p) for name, p in model.named_parameters()}
        stand_in = sharded.gathered(model)
        after = {name: id(p) for name, p in model.named_parameters()}
        assert before == after, "the model changed between sharded and unsharded"
        for module in stand_in.modules():
            module.training = False
        with torch.random.fork_rng(devices=[]):
            stand_in(IMAGES + RANK)
        sharded.release(stand_in)

    # In the run alone too, so that both have as many hooks.
    optimizer.register_step_post_hook(lambda *_: look() if measure else None)
    data = torch.Generator().manual_seed(RANK)
    for step in range(2):
        model.train()
        images = torch.rand(4, 3, 8, 8, generator=data)
        loss = F.cross_entropy(model(images).float(), torch.randint(0, 5, (4,)))
        if measure:
            look()  # between forward and backward
        loss.backward()
        if measure:
            look()
        optimizer.step()
        if step == 0:
            optimizer.zero_grad()
        # A validation pass: leaves parameters unsharded where the policy says so.
        logits(model, images)
        if measure:
            look()
        model.train()
    as_left = {f"as left: {key}": value for key, value in facts(model).items()}
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return as_left | facts(model, optimizer)


def no_trace() -> dict:
    found = {}
    for kind, options in (
        (Conv, {"reshard_after_forward": True}),
        (Attention, {"reshard_after_forward": False, "mp_policy": HALF}),
        (Tangled, {"reshard_after_forward": False}),
    ):
        alone = train(kind, False, **options)
        assert any(key.startswith("gradient") for key in alone)
        found[f"{kind.__name__}, {options}"] = differences(alone, train(kind, True, **options))
    return found


def after_training() -> dict:
    """Unsharded by a validation pass in bf16: the stand-in still has the optimizer's weights."""
    model = shard(make(Attention), reshard_after_forward=False, mp_policy=HALF)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    F.cross_entropy(model(IMAGES + RANK).float(), torch.arange(4)).backward()
    optimizer.step()
    logits(model)
    unsharded = [p.dtype for p in model.parameters() if p.dtype == torch.bfloat16]
    stand_in = sharded.gathered(model)
    ours = logits(stand_in)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    plain = make(Attention)
    plain.load_state_dict({name: p.full_tensor() for name, p in model.state_dict().items()})
    return {
        "were unsharded": len(unsharded) > 0,
        "same": torch.equal(ours, logits(plain)),
        "trained": not torch.equal(ours, logits(make(Attention))),
    }


def refusals() -> dict:
    mesh = init_device_mesh("cpu", (2,))

    def message(model) -> str:
        try:
            sharded.gathered(model)
        except hfc_probe.InputError as error:
            return f"{sharded.is_sharded(model)}: {error}"
        return "accepted"

    columns = parallelize_module(make(Conv), mesh, {"head": ColwiseParallel()})
    both = init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "tensor"))
    mixed = parallelize_module(make(Conv), both["tensor"], {"head": ColwiseParallel()})
    mixed = fully_shard(mixed, mesh=both["data"])
    late = make(Conv)
    fully_shard(late.head)
    register_parametrization(late.head, "bias", nn.Identity(), unsafe=True)
    first = FullyShardedDataParallel(
        make(Conv), device_id=torch.device("cpu"), use_orig_params=True
    )
    hidden = make(Conv)
    hidden.extra = {fully_shard(nn.Linear(2, 2))}
    return {
        "in a set": message(shard(hidden)),
        "tensor parallel": message(columns),
        "both": message(mixed),
        "fsdp1": message(first),
        "late class": message(late),
        "part": message(shard(make(Conv), nested=False).blocks),
    }


def compiled() -> dict:
    def refuse(*_):
        raise AssertionError("the stand-in was compiled")

    plain = make(Conv)
    model = make(Conv)
    model.blocks[0] = torch.compile(model.blocks[0], backend=refuse)
    model.head.compile(backend=refuse)
    model.dropout.forward = torch.compile(model.dropout.forward, backend=refuse)
    own_names = names(model)
    stand_in = sharded.gathered(torch.compile(shard(model, nested=False), backend=refuse))
    return {
        "same": torch.equal(logits(stand_in), logits(plain)),
        "names": names(stand_in) == own_names,
    }


def forward_method() -> bool:
    class Named(Conv):
        def predict(self, images: torch.Tensor) -> torch.Tensor:
            return self(images) * 2

    model = shard(make(Named))
    register_fsdp_forward_method(model, "predict")
    stand_in = sharded.gathered(model).eval()
    with torch.no_grad():
        return bool(torch.equal(stand_in.predict(IMAGES), logits(make(Named)) * 2))


def measured(stand_in: nn.Module) -> dict:
    """By this process alone."""
    samples = hfc_probe.Samples(IMAGES, torch.arange(4))
    curves = hfc_probe.FrequencyAccuracy(radii=(2, 5)).measure(stand_in, samples)
    spectra = hfc_probe.KernelSpectra().measure(stand_in)
    sensitivity = hfc_probe.FourierSensitivity().measure(stand_in, samples)
    plain = make(Conv)
    images = [IMAGES.clone().requires_grad_() for _ in range(2)]
    for model, leaf in zip((stand_in, plain), images, strict=True):
        model.eval()(leaf).sum().backward()
    return {
        "layer": kernels.first_layer(stand_in)[0],
        "accuracy": curves.scalars()
        == hfc_probe.FrequencyAccuracy(radii=(2, 5)).measure(plain, samples).scalars(),
        "spectra": spectra.scalars() == hfc_probe.KernelSpectra().measure(plain).scalars(),
        "sensitivity": sensitivity.scalars()
        == hfc_probe.FourierSensitivity().measure(plain, samples).scalars(),
        "gradient": torch.equal(images[0].grad, images[1].grad),
        "gradient is not zero": bool(images[0].grad.abs().sum() > 0),
    }


def main() -> None:
    torch.set_num_threads(1)
    made = stand_ins()
    found = {
        "plain": PLAIN,
        "no_trace": no_trace(),
        "after_training": after_training(),
        "refusals": refusals(),
        "compiled": compiled(),
        "forward_method": forward_method(),
    }
    model = shard(make(Conv))
    stand_in = sharded.gathered(model)
    # One process alone: had it anything to communicate, it would wait for the other, which
    # comes only when this is done.
    if RANK == 0:
        found["alone"] = measured(stand_in)
        (FOLDER / "done").touch()
    dist.barrier()
    found["other came first"] = RANK == 1 and (FOLDER / "done").exists()
    # And again where nothing can communicate any more.
    dist.destroy_process_group()
    found["stand_ins"] = {name: compared(*models) for name, models in made.items()}
    found["without a group"] = measured(stand_in)
    found["gradients of the model"] = [n for n, p in model.named_parameters() if p.grad is not None]
    tensors = [*stand_in.parameters(), *stand_in.buffers()]
    found["bytes before release"] = sum(t.untyped_storage().nbytes() for t in tensors)
    sharded.release(stand_in)
    found["bytes after release"] = sum(t.untyped_storage().nbytes() for t in tensors)
    (FOLDER / f"{RANK}.json").write_text(json.dumps(found))


dist.init_process_group(
    "gloo",
    init_method=f"file://{FOLDER / 'store'}",
    rank=RANK,
    world_size=2,
    timeout=datetime.timedelta(seconds=60),
)
main()
