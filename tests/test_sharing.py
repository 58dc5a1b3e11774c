"""Several processes measure one model: the numbers of one process, and nobody hangs."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hfc_probe.measurements.registry import MEASUREMENTS

from . import test_no_trace as no_trace
from .conftest import ROOT

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this torch has no gloo",
)
TOGETHER = [
    "everything",
    "training",
    "budget",
    "uneven",
    "fails",
    "other weights",
    "other images",
    "other settings",
    "less_memory",
    "leader_raises",
    "sharded",
    "only_rank_0",
    "ended",  # of the process group: the last
]


def start(rank, world, port, arguments):
    """One process, as torchrun starts it, but left alone when another one dies."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | path | {k: str(v) for k, v in (own | place).items()},
    )


def run(arguments, world=2):
    """Status and output of every rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(rank, world, port, arguments) for rank in range(world)]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, output) for p, output in zip(processes, outputs, strict=True)]


def scenes(folder, *names, seconds=60.0, world=2):
    return run(["tests/ranks.py", str(folder), str(seconds), *names], world)


def left(folder, scene, rank=0):
    return pickle.loads((folder / f"{scene}-{rank}.pickle").read_bytes())


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes leave behind."""
    folder = tmp_path_factory.mktemp("two")
    for status, output in scenes(folder, *TOGETHER):
        assert status == 0, output
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    ((status, output),) = scenes(folder, "everything", "fails", world=1)
    assert status == 0, output
    return folder


def equal(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def same(found, expected):
    assert set(found) == set(expected)
    for name, arrays in expected.items():
        for key in arrays:
            assert equal(found[name][key], arrays[key]), (name, key)


def test_every_measurement_gives_the_numbers_of_one_process_to_the_last_bit(one, two):
    expected, passes = left(one, "everything")
    found, mine = left(two, "everything")
    _, theirs = left(two, "everything", 1)
    missing = importlib.util.find_spec("torchmetrics") is None  # the extra "calibration"
    assert len(expected) == len(MEASUREMENTS) - missing + 3  # three more ways to make a heatmap
    same(found, expected)
    # Each does a good part of it, and nothing is done twice but the heatmaps' check, by each,
    # that the model answers the same two times.
    assert min(mine, theirs) > passes / 4
    assert passes <= mine + theirs <= passes + 4 * 4


def test_what_counts_are_rank_0s_buffers_and_training_leaves_the_ranks_alone(two):
    found, alone, _, state = left(two, "training")
    same({"frequency_accuracy": found["frequency_accuracy"]}, {"frequency_accuracy": alone})
    _, _, theirs, other_state = left(two, "training", 1)
    assert theirs > 0
    assert torch.equal(state["net.0.weight"], other_state["net.0.weight"])
    # BatchNorm's running mean is each rank's own: help did not leave rank 0's behind.
    assert not torch.equal(state["net.1.running_mean"], other_state["net.1.running_mean"])
    events = EventAccumulator(str(two / "log")).Reload()
    assert [e.step for e in events.Scalars("hfc_accuracy/original")] == [3, 6]
    assert [e.step for e in events.Scalars("hfc_net.0/smoothness_mean")] == [2, 4, 6]


def test_a_model_sharded_by_fsdp2_is_measured_whole_and_trains_the_same(two):
    for rank in range(2):
        without, probed, *_ = left(two, "sharded", rank)
        assert no_trace.same(without, probed)
    _, _, found, alone = left(two, "sharded")
    same({"frequency_accuracy": found["frequency_accuracy"]}, {"frequency_accuracy": alone})
    log = EventAccumulator(str(two / "sharded"), purge_orphaned_data=False)
    events = log.Reload()
    # At last once more, from an earlier state: see "rolled back".
    assert [e.step for e in events.Scalars("hfc_accuracy/original")] == [2, 4, 1]
    assert [e.step for e in events.Scalars("hfc_net.0/smoothness_mean")] == [1, 2, 3, 4, 1]


def test_a_sharded_model_is_measured_after_the_probe_went_back_to_an_earlier_state(two):
    assert left(two, "rolled back") == [1, 1, 1]


def test_a_rank_with_less_memory_halves_its_batches_and_helps(two):
    found, alone, _ = left(two, "less_memory")
    assert found["fourier_heatmap"].keys() == alone.keys()
    for name in ("error", "count", "clean_error"):
        assert equal(found["fourier_heatmap"][name], alone[name])
    assert left(two, "less_memory", 1)[2] > 1200


def test_ranks_go_on_when_rank_0_raises_and_help_again(one, two):
    same(left(two, "leader_raises")[0], left(one, "fails")[0])
    _, seen, seconds = left(two, "leader_raises", 1)
    assert seen > 0
    assert seconds < 15  # a quarter of the process group's timeout: what one wait in vain takes


def test_after_the_process_group_rank_0_measures_alone(two):
    assert left(two, "ended")[1] == 3000
    assert left(two, "ended", 1) == ({}, 0)


def test_the_budget_holds_and_what_was_put_off_is_shared_as_well(two):
    spent, took, mine, runs = left(two, "budget")
    theirs = left(two, "budget", 1)[2]
    assert 1 <= runs < 60
    assert spent <= 0.5 * took + spent / runs  # one run more than the budget
    assert theirs >= 0.2 * mine


def test_a_rank_with_fewer_batches_holds_nobody_up(two):
    steps, runs, found = left(two, "uneven")
    assert (steps, left(two, "uneven", 1)[0]) == (12, 6)
    assert runs == 6
    assert set(found) == {"frequency_accuracy"}


def test_attached_on_rank_0_only_it_measures_alone(two):
    assert set(left(two, "only_rank_0")) == {"frequency_accuracy"}
    assert left(two, "only_rank_0", 1) == {}


@pytest.mark.parametrize("how", ["fails", "other weights", "other images", "other settings"])
def test_a_rank_that_cannot_help_changes_nothing(one, two, how):
    found, mine = left(two, how)
    same(found, left(one, "fails")[0])
    theirs = left(two, how, 1)[1]
    assert (mine, theirs > 0) == (7000, how == "fails")


def test_a_rank_that_dies_in_the_middle_is_done_without(one, tmp_path):
    (status, output), (other, _) = scenes(tmp_path, "dies")
    assert (status, other) == (0, -signal.SIGKILL), output
    same(left(tmp_path, "dies")[0], left(one, "fails")[0])


def test_without_rank_0_the_others_end(tmp_path):
    (leader, _), (status, output) = scenes(tmp_path, "leader_dies", seconds=12)
    assert (leader, status) == (-signal.SIGKILL, 0), output


def test_ranks_that_are_not_at_the_same_step_go_on_training(tmp_path):
    for status, output in scenes(tmp_path, "skewed", seconds=12):
        assert status == 0, output
    runs, seconds = left(tmp_path, "skewed")
    assert runs == 8
    assert seconds < 12  # twice a quarter of the process group's timeout, then nobody waits


def test_the_audit_under_torchrun_writes_what_one_process_writes(cifar_path, tmp_path):
    weights = str(cifar_path / "resnet20.pth")
    model = ["--model", "examples/cifar_resnet.py:resnet20", "--weights", weights]
    data = ["--normalize", "imagenet", "--data", f"npz:{cifar_path / 'test.npz'}", "--limit", "256"]
    heatmap = ["--heatmap", "--crop", "3", "--forwards", "900", "--batch-size", "32"]
    command = ["-m", "hfc_probe", "audit", *model, *data, *heatmap, "--out"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        ((status, output),) = run([*launcher, *command, str(tmp_path / name)], world=1)
        assert status == 0, output
        assert output.count("tensorboard --logdir") == 1  # said once
    files = [p.name for p in sorted((tmp_path / "one").glob("*.json"))]
    assert files == ["fourier_heatmap.json", "frequency_accuracy.json", "kernel_spectra.json"]
    for file in files:
        first, second = (json.loads((tmp_path / n / file).read_text()) for n in ("one", "two"))
        assert first == second
    assert len(list((tmp_path / "two").glob("events.*"))) == 1


def test_bad_input_under_torchrun_is_said_once(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    wrong = ["--model", "torchvision:resnet18", "--data", f"npz:{tmp_path / 'no.npz'}"]
    command = ["-m", "hfc_probe", "audit", *wrong, "--out", str(tmp_path / "out")]
    ((status, output),) = run([*torchrun, *command], world=1)
    assert status != 0
    assert output.count("hfc-probe: error: --data: expected a file") == 1
    assert not (tmp_path / "out").exists()
