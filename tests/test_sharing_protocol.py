"""The exchange among ranks, by threads on a store in memory: whatever the others do, rank 0 has
the results of all jobs in order, and everybody comes back.
"""

from __future__ import annotations

import os
import random
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hfc_probe import sharing
from hfc_probe.sharing import Board, Crew

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)


class Died(BaseException):
    """What a killed process looks like in a thread: nothing is tidied up."""


class Fading:
    """A store that cannot be reached after so many calls."""

    def __init__(self, store, calls):
        self._store, self._left = store, calls

    def __getattr__(self, name):
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("Broken pipe (planted)")
        return getattr(self._store, name)


def crew(store, rank, world):
    return Crew(Board(store, "test/"), rank, world, timeout=2.0, patience=0.15)


def work(rank, mood, dice):
    def do(job):
        time.sleep(dice.random() * 0.004)
        if rank and mood == "fails" and dice.random() < 0.5:
            raise RuntimeError("planted")
        if rank and mood == "dies" and dice.random() < 0.3:
            raise Died
        return torch.tensor([job, job * job])

    return do


def compute(shared, do, jobs):
    """Two rounds of work, of which the second depends on the first, and a choice of rank 0's."""
    first = sum(int(found[1]) for found in shared.map(range(jobs), do))
    chosen = shared.agree(lambda: first % 5 + 2)
    second = [found.tolist() for found in shared.map([first + k for k in range(chosen)], do)]
    return first, second


def train(rank, world, store, mood, jobs, positions, seed, out):
    dice = random.Random((seed, rank, mood).__repr__())
    mine = crew(store, rank, world)
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.fill_(1.0 if mood != "other weights" else 2.0)
        model.bias.fill_(0.0)
    if mood == "late":
        time.sleep(0.1)
    if mood != "never comes":
        mine.arrive("images")
    do = work(rank, mood, dice)
    try:
        for step in range(positions):
            time.sleep(dice.random() * 0.01)
            at = (0, step + (7 if mood == "skewed" else 0), 0)
            if rank == 0:
                for key in ("a", "b"):
                    with mine.lead(at, key) as shared:
                        shared.begin(model, 4)
                        out.append(compute(shared, do, jobs))
                mine.passed(at)
            elif mood != "never comes":
                for invitation in mine.invitations(at):
                    with mine.help(invitation) as shared:
                        shared.begin(model, 4)
                        out.append(compute(shared, do, jobs))
        out.append("back")
    except Died:
        out.append("died")


MOODS = ["helps", "late", "fails", "dies", "other weights", "skewed", "never comes"]


@settings(deadline=None, max_examples=int(os.environ.get("HFC_PROBE_FUZZ", 30)))
@given(
    moods=st.lists(st.sampled_from(MOODS), min_size=1, max_size=3),
    jobs=st.integers(0, 9),
    positions=st.integers(1, 4),
    seed=st.integers(0, 1000),
    reach=st.lists(st.sampled_from([10**9, 10**9, 3, 20, 60, 200]), min_size=4, max_size=4),
)
def test_rank_0_has_everything_in_order_and_nobody_hangs(moods, jobs, positions, seed, reach):
    grace, sharing._GRACE_SECONDS = sharing._GRACE_SECONDS, 0.05
    store, world = torch.distributed.HashStore(), 1 + len(moods)
    outs = [[] for _ in range(world)]
    threads = [
        threading.Thread(
            target=train,
            args=(rank, world, Fading(store, reach[rank]), mood, jobs, positions, seed, outs[rank]),
            daemon=True,
        )
        for rank, mood in enumerate(["helps", *moods])
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    finally:
        sharing._GRACE_SECONDS = grace
    assert not any(thread.is_alive() for thread in threads)
    first = sum(k * k for k in range(jobs))
    second = [[first + k, (first + k) ** 2] for k in range(first % 5 + 2)]
    assert outs[0] == [(first, second)] * (2 * positions) + ["back"]
    for mood, out in zip(moods, outs[1:], strict=True):
        assert out[-1] == "back" or mood == "dies"
        # Whoever sees a measurement to its end sees what rank 0 sees.
        assert all(found in ("back", "died", (first, second)) for found in out)


def test_a_helper_does_a_share_of_the_work_and_leaves_nothing_in_the_store():
    store, outs = torch.distributed.HashStore(), [[], []]
    threads = [
        threading.Thread(target=train, args=(rank, 2, store, "helps", 8, 12, 0, outs[rank]))
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(outs[1]) > 12
    # What is kept: who is there, the last position, and the latest runs.
    assert store.num_keys() < 200


def together(*ranks):
    """Run functions, one per rank, and wait for all."""
    threads = [threading.Thread(target=rank, daemon=True) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def pair(lead, do, jobs=range(6), theirs=range(6), positions=1):
    """Rank 0 and one that helps, with work of its own; what rank 0 found."""
    store, found, model = torch.distributed.HashStore(), [], nn.Linear(2, 2)
    crews = [crew(store, rank, 2) for rank in range(2)]
    for one in crews:
        one.arrive()

    def leading():
        for step in range(positions):
            with crews[0].lead((step,), "a") as shared:
                shared.begin(model, 4)
                found.append(list(shared.map(jobs, lead)))
        crews[0].passed((positions,))

    def helping():
        for invitation in crews[1].invitations((0,)):
            with crews[1].help(invitation) as shared:
                shared.begin(model, 4)
                list(shared.map(theirs, do))

    together(leading, helping)
    return found


def test_a_rank_that_fell_several_runs_behind_works_no_further_on_them(monkeypatch):
    monkeypatch.setattr(sharing, "_GRACE_SECONDS", 0.05)
    done, begun, over = [], threading.Event(), threading.Event()
    runs = 8

    def lead(job):
        begun.wait(10)
        if len(leads) == 6 * runs - 2:
            over.set()
        leads.append(job)
        return job

    def slow(job):
        done.append(job)
        begun.set()
        over.wait(30)
        return job

    leads = []
    found = pair(lead, slow, positions=runs)
    assert found == [list(range(6))] * runs
    assert len(done) == 1


def test_jobs_are_those_of_rank_0_whatever_another_rank_came_to():
    def do(job):
        time.sleep(0.02)
        return 10 * job

    found = pair(do, do, jobs=list(range(9)), theirs=list(range(100, 109)))
    assert found == [[10 * k for k in range(9)]]


def test_only_what_was_on_a_gpu_is_moved_and_of_a_view_only_its_part():
    store = torch.distributed.HashStore()
    board = Board(store)
    board.put("found", {"cpu": torch.arange(1_000_000)[3:5], "gpu": torch.ones(2, device="meta")})
    assert len(store.get("found/part0")) < 10_000
    found = board.take("found", "meta")
    assert found["cpu"].tolist() == [3, 4]
    assert found["gpu"].is_meta


def test_rank_0_waits_once_at_a_position_for_ranks_that_stay_away():
    store = torch.distributed.HashStore()
    lead, other = (crew(store, rank, 2) for rank in range(2))
    begin = time.monotonic()
    assert not lead.call_all((1,))
    waited = time.monotonic() - begin
    lead.patience = 20.0
    assert waited >= 0.15
    assert not lead.call_all((1,))
    other.depart()
    assert not lead.call_all((2,))  # nor for one that said it will not come
    assert time.monotonic() - begin < 20
