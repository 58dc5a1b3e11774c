"""Models sharded by FSDP2 on two real processes, and the whole copies made of them."""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import sys
import threading
import types
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from hfc_probe import sharded
from tests.sharded_models import Attention, Conv, Tangled

HERE = Path(__file__).resolve().parent
SECONDS = 120


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What each of two processes found; see sharded_worker.py."""
    if not torch.distributed.is_available():
        pytest.skip("this torch is built without distributed")
    folder = tmp_path_factory.mktemp("sharded")
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    processes = [
        subprocess.Popen(
            [sys.executable, str(HERE / "sharded_worker.py"), str(rank), str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", [Conv, Attention, Tangled])
@pytest.mark.parametrize("how", ["root only", "nested, bf16", "replicated"])
def test_a_stand_in_is_the_model_that_was_never_sharded(found, kind, how):
    for rank in found:
        # Compared after the process group was destroyed: what communicates raises.
        checks = rank["stand_ins"][f"{kind.__name__}, {how}"]
        assert len(checks) == 6
        assert [name for name, holds in checks.items() if not holds] == []


def test_a_stand_in_has_the_weights_that_the_optimizer_sees(found):
    for rank in found:
        # After a validation pass the model holds whole weights in bfloat16.
        assert rank["after_training"] == {"were unsharded": True, "same": True, "trained": True}


def test_training_is_the_same_with_and_without_stand_ins(found):
    for rank in found:
        assert len(rank["no_trace"]) == 3
        assert not any(rank["no_trace"].values()), rank["no_trace"]


def test_a_stand_in_runs_on_one_process_alone(found):
    expected = {
        "layer": "stem",
        "accuracy": True,
        "spectra": True,
        "sensitivity": True,
        "gradient": True,
        "gradient is not zero": True,
    }
    assert found[0]["alone"] == expected
    assert found[1]["other came first"]
    for rank in found:
        assert rank["without a group"] == expected
        assert rank["gradients of the model"] == []


def test_compiled_parts_run_eagerly_under_their_names(found):
    for rank in found:
        assert rank["compiled"] == {"same": True, "names": True}


def test_a_forward_method_registered_with_fsdp_runs_alone(found):
    assert all(rank["forward_method"] for rank in found)


def test_release_frees_a_whole_model(found):
    for rank in found:
        assert rank["bytes before release"] > 0
        assert rank["bytes after release"] == 0


def test_a_plain_model_imports_nothing_for_sharding(found):
    assert found[0]["plain"] == [False, []]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("tensor parallel", ["'head.weight'", "tensor parallelism", "gather a full copy"]),
        ("both", ["'head.weight'", "tensor parallelism", "gather a full copy"]),
        ("fsdp1", ["fully_shard", "FullyShardedDataParallel (FSDP1)", "gather a full copy"]),
        ("late class", ["'head'", "ParametrizedFSDPLinear", "before fully_shard"]),
        ("part", ["'0.0'", "pass the outer module"]),
        ("in a set", ["Linear in a set", "keep it in a list"]),
    ],
)
def test_refusals_say_what_to_do(found, case, words):
    for rank in found:
        message = rank["refusals"][case]
        assert message.startswith("True: sharded model: expected ")
        assert [word for word in words if word not in message] == []


class Kept(nn.Module):
    """What else leads back to a module: each must lead to the copy's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.cached = functools.lru_cache(self.pick)
        self.reference = weakref.ref(self.layer)
        self.set = {self.layer}
        self.pair = types.SimpleNamespace(layer=self.layer, lock=threading.Lock())
        self.loop: list = [self.layer]
        self.loop.append(self.loop)
        self.register_buffer("table", torch.zeros(2))
        self.same_table = self.table
        self.weights = [self.layer.weight]
        self.calls = 0

    def pick(self) -> nn.Module:
        return self.layer


def test_every_reference_leads_to_the_copy():
    model = Kept()
    copy = sharded.gathered(model)
    reached = [copy.cached(), copy.reference(), *copy.set, copy.pair.layer, copy.loop[1][0]]
    assert all(layer is copy.layer for layer in reached)
    assert copy.layer is not model.layer
    assert copy.weights[0] is copy.layer.weight
    assert copy.same_table is copy.table
    copy.table += 1
    copy.layer.weight.data.zero_()
    assert not model.table.any()
    assert model.layer.weight.all()
    # And the original is as it was: its own references still lead to its own layer.
    assert model.cached() is model.pair.layer is model.loop[1][0] is model.layer


def test_what_leads_nowhere_near_the_model_is_not_copied():
    class Trainer:
        """Holds everything, through others: its copy would be a second training run."""

        def __init__(self, model):
            self.strategy = types.SimpleNamespace(model=model)

    model = nn.Linear(2, 2)
    model.__dict__["_trainer"] = trainer = Trainer(model)
    assert vars(sharded.gathered(model))["_trainer"] is trainer


def test_an_object_that_cannot_be_copied_is_named():
    class Locked:
        def __init__(self, layer):
            self.layer = layer

        def __copy__(self):
            raise TypeError("no copies")

    model = nn.Linear(2, 2)
    model.helper = Locked(nn.Linear(2, 2))
    with pytest.raises(sharded.InputError, match=r"got Locked, which is not \(no copies\)"):
        sharded.gathered(model)


def test_a_released_copy_holds_no_memory_though_it_refers_to_itself():
    copy = sharded.gathered(Kept())
    weight = copy.layer.weight
    gc.disable()
    try:
        sharded.release(copy)
        del copy
        assert weight.untyped_storage().nbytes() == 0
    finally:
        gc.enable()
