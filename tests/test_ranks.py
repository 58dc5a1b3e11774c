"""Several processes measure one model: the numbers of one process, and nobody hangs."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed.fsdp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hfc_probe.measurements.registry import MEASUREMENTS

from .conftest import DATA, ROOT, needs_coco
from .promises import test_no_trace as no_trace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
        reason="this torch has no gloo",
    ),
]
SHARDED = ["fsdp1", "fsdp1_flat", "tensor_parallel"]
if hasattr(torch.distributed, "fsdp") and hasattr(torch.distributed.fsdp, "fully_shard"):
    SHARDED.append("fsdp2")  # before torch 2.6 it needs a GPU
DETECTION = importlib.util.find_spec("pycocotools") is not None  # the extra "detection"
TOGETHER = [
    "everything",
    "later_maps",
    "sets",
    "training",
    "budget",
    "uneven",
    "only_rank_0",
    "alone_at_a_measurement",
    "fails",
    "other_weights",
    "other_images",
    "less_memory",
    *SHARDED,
    "skewed",
    *(["detection_on_rank_0"] * DETECTION),
    "ended",  # of the process group; the last ones run without it
    "everything_alone",
    "later_maps_alone",
    "sets_alone",
    *(["audit"] * (DATA / "cifar10").is_dir()),
    "bad_input",
]


def start(rank, ports, arguments):
    """One process, as torchrun starts it, but left alone when another one dies."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "SECOND_PORT": ports[1]}
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "OMP_NUM_THREADS": 1}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    return subprocess.Popen(
        [sys.executable, "tests/ranks.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | path | {k: str(v) for k, v in (own | place).items()},
    )


def left(folder, scene, rank=0):
    return pickle.loads((folder / f"{scene}-{rank}.pickle").read_bytes())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes leave behind; one start, since importing torch is most of a scene."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as first, socket.socket() as second:
        for free in (first, second):
            free.bind(("127.0.0.1", 0))
        ports = [free.getsockname()[1] for free in (first, second)]
    processes = [start(rank, ports, [str(folder), "60", *TOGETHER]) for rank in range(2)]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    return folder


def equal(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def same(found, expected):
    assert set(found) == set(expected)
    for name, arrays in expected.items():
        for key in arrays:
            assert equal(found[name][key], arrays[key]), (name, key)


def test_every_measurement_gives_the_numbers_of_one_process_to_the_last_bit(two):
    expected, passes = left(two, "everything_alone")
    missing = importlib.util.find_spec("captum") is None  # the extra "attribution"
    assert len(expected) == len(MEASUREMENTS) - missing + 3  # three more ways to make a heatmap
    shares = []
    for rank in range(2):
        found, share = left(two, "everything", rank)
        same(found, expected)
        shares.append(share)
    # Each does half of it; in the last round of a list a rank may repeat a batch.
    assert max(shares) < 0.65 * passes


def test_a_map_that_starts_from_the_last_one_is_that_of_one_process_to_the_last_bit(two):
    expected = left(two, "later_maps_alone")
    for rank in range(2):  # of which rank 1 has no last one
        for found, alone in zip(left(two, "later_maps", rank), expected, strict=True):
            same(found, alone)
    ((later,), (first,)) = (one.values() for one in expected[1:])
    assert not equal(later["error"], first["error"])  # the last one made a difference


def test_named_sets_have_the_numbers_of_one_process_to_the_last_bit(two):
    expected = left(two, "sets_alone")
    assert len(expected) == 4  # two measurements of each set
    for rank in range(2):
        same(left(two, "sets", rank), expected)


def test_what_counts_are_rank_0s_buffers_and_training_leaves_the_ranks_alone(two):
    found, alone, _, state = left(two, "training")
    same({"frequency_accuracy": found["frequency_accuracy"]}, {"frequency_accuracy": alone})
    _, _, _, other_state = left(two, "training", 1)
    assert torch.equal(state["net.0.weight"], other_state["net.0.weight"])
    # BatchNorm's running mean is each rank's own: measuring did not leave rank 0's behind.
    assert not torch.equal(state["net.1.running_mean"], other_state["net.1.running_mean"])
    events = EventAccumulator(str(two / "log")).Reload()
    assert [e.step for e in events.Scalars("hfc_accuracy/original")] == [3, 6]
    assert [e.step for e in events.Scalars("hfc_net.0/smoothness_mean")] == [2, 4, 6]


@pytest.mark.parametrize("how", SHARDED)
def test_a_sharded_model_is_measured_and_trains_the_same(two, how):
    *_, expected = left(two, how)  # rank 0's buffers count
    for rank in range(2):
        without, probed, found, _ = left(two, how, rank)
        assert no_trace.same(without, probed)
        assert set(found) == {*expected, "fourier_heatmap"}
        same({name: found[name] for name in expected}, expected)


def test_the_budget_is_rank_0s_and_holds(two):
    spent, took, _, runs = left(two, "budget")
    assert left(two, "budget", 1)[3] == runs
    assert 1 <= runs < 60
    assert spent <= 0.5 * took + spent / runs  # one run more than the budget


def test_a_rank_with_fewer_batches_holds_nobody_up(two):
    steps, runs, found = left(two, "uneven")
    assert (steps, left(two, "uneven", 1)[0]) == (12, 6)
    assert runs >= 6
    assert set(found) == {"frequency_accuracy"}


def test_attached_on_rank_0_only_it_measures_alone_and_no_group_is_harmed(two):
    found, took, together = left(two, "only_rank_0")
    assert set(found) == {"frequency_accuracy"}
    assert took < 10
    assert together  # the next time, when both came
    assert left(two, "only_rank_0", 1)[2]


def test_a_rank_that_comes_alone_to_a_measurement_measures_alone(two):
    found, seen, took = left(two, "alone_at_a_measurement")
    assert set(found) == {"frequency_accuracy"}
    assert seen == 3 * 3000  # all of it by itself, three times
    assert took < 10  # two waits in vain, then none
    assert left(two, "alone_at_a_measurement", 1)[1] == 0


def test_what_fails_on_one_rank_fails_on_all_and_the_next_measurement_goes_well(two):
    assert left(two, "fails")[0] == "rank 1: RuntimeError: planted"
    assert left(two, "fails", 1)[0] == "planted"
    for rank in range(2):
        assert set(left(two, "fails", rank)[1]) == {"frequency_accuracy"}


def test_ranks_with_different_weights_do_not_mix_their_results(two):
    found, alone, seen = left(two, "other_weights")
    same(found, {"frequency_accuracy": alone})
    assert seen == 3000
    assert left(two, "other_weights", 1)[0] == {}


def test_ranks_with_different_images_are_refused_everywhere(two):
    for rank in range(2):
        assert "got others on rank 1 than on rank 0" in left(two, "other_images", rank)


def test_a_rank_with_less_memory_makes_all_halve_their_batches(two):
    for rank in range(2):
        found, alone = left(two, "less_memory", rank)
        same(found, {"frequency_accuracy": alone})


def test_ranks_that_are_not_at_the_same_step_go_on_training(two):
    runs, seconds = left(two, "skewed")
    assert runs == 8
    assert seconds < 15  # two waits in vain, then none


def test_after_the_process_group_rank_0_measures_alone(two):
    assert left(two, "ended") == 3000
    assert left(two, "ended", 1) == 0


@needs_coco
def test_a_detector_audited_on_rank_0_only_is_audited(two):
    scalars, took = left(two, "detection_on_rank_0")
    assert scalars["hfc_detection/AP/original"] == 1.0
    assert took < 15


def test_the_audit_by_two_processes_writes_what_one_process_writes(cifar_path, two):
    for name, leader in (("audit_alone", 1), ("audit", 0)):
        status, output = left(two, name, leader)
        assert status == 0, output
        assert output.count("tensorboard --logdir") == 1
    assert "tensorboard" not in left(two, "audit", 1)[1]  # said once
    files = [p.name for p in sorted((two / "audit_alone").glob("*.json"))]
    assert files == ["fourier_heatmap.json", "frequency_accuracy.json", "kernel_spectra.json"]
    for file in files:
        first, second = (json.loads((two / n / file).read_text()) for n in ("audit_alone", "audit"))
        for result in (first, second):
            for key in ("date", "wall_time", "seconds", "command"):
                del result["provenance"][key]
            fields = result["fields"]["items"]
            fields[:] = [field for field in fields if field[0] != "elapsed"]
        assert first == second
    assert len(list((two / "audit").glob("events.*"))) == 1


def test_bad_input_to_two_processes_is_said_once(two):
    status, output = left(two, "bad_input")
    assert status == 2
    assert output.startswith("hfc-probe: error: --data: expected a file")
    assert left(two, "bad_input", 1) == (0, "")  # torchrun would stop rank 0 before it says it
    assert not (two / "bad_input").exists()
