"""Measuring together on ``torch.distributed``: each rank takes a share of the batches, in step.

All ranks run the same measurement on the same images. If it asks for work on a list of jobs,
each rank does its share, and all get all results, so that every rank goes the same way and finds
the numbers that one process would find. Results meet on a gloo group of the ranks' own, whatever
backend the training uses; the training's groups are not touched.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.utils._pytree import tree_map_only

from .ground.errors import InputError
from .ground.hashing import state_hash

Job = TypeVar("Job")
Found = TypeVar("Found")

logger = logging.getLogger("hfc_probe")

# Seconds that a rank waits for the others before it goes its own way. Ranks that attach are
# together; at a measurement one may still be writing a checkpoint.
AT_ATTACH, AT_MEASUREMENT = 15.0, 30.0
_group_numbers = itertools.count()


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and the number of processes; (0, 1) if it is alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextmanager
def process_group() -> Iterator[None]:
    """The process group that ``torchrun`` asks for; nothing without it."""
    wanted = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not wanted or not distributed.is_available() or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        _let_threads_end()
        distributed.destroy_process_group()


def _let_threads_end() -> None:
    """Give gloo's threads the interpreter, before a group of theirs is destroyed.

    They need it to free the tensors of the last collective. Older versions of torch (2.4, for one)
    wait for these threads with the interpreter's lock in hand, and so for ever.
    """
    time.sleep(0.2)


def own_device(name: str) -> str:
    """Under ``torchrun``, ``auto`` and ``cuda`` mean this process's own GPU."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or not torch.cuda.is_available() or name not in ("auto", "cuda"):
        return name
    torch.cuda.set_device(int(rank))
    return f"cuda:{rank}"


def all_came(place: str, seconds: float) -> bool:
    """Whether every rank comes to a place within some seconds: one answer, the same on all.

    It goes through the process group's store, so a rank that comes alone waits, then continues; a
    collective would hang, and ``new_group`` on one rank would break the program's next group.
    The first rank to know writes the answer, and ``compare_set`` keeps it: ranks that give up
    and ranks that come late cannot decide differently.
    """
    rank, world = rank_and_world()
    store = _store()
    store.set(f"{place}/{rank}", "here")
    answer, everyone = f"{place}/all", [f"{place}/{k}" for k in range(world)]
    until, pause = time.monotonic() + seconds, 1e-4
    while not store.check([answer]):
        came = store.check(everyone)
        if came or time.monotonic() > until:
            store.compare_set(answer, "", "yes" if came else "no")
        time.sleep(pause)
        pause = min(2 * pause, 0.02)
    return bool(store.get(answer) == b"yes")


def _store() -> Any:
    c10d: Any = distributed.distributed_c10d
    return distributed.PrefixStore("hfc_probe", c10d._get_default_store())  # type: ignore[attr-defined]


def _is_over(place: str) -> bool:
    """Whether ranks met here in vain."""
    store, answer = _store(), f"{place}/all"
    return bool(store.check([answer]) and store.get(answer) == b"no")


class RankGroup:
    """The ranks that measure together.

    Attributes:
        rank, world: of this process, and how many there are.
    """

    def __init__(self, name: str, divides: bool = True) -> None:
        """Every rank calls it at the same place, after :func:`all_came`."""
        self.rank, self.world = rank_and_world()
        self._divides = divides
        self._name = name
        # Ranks that are done wait for the slowest; torchrun notices those that die.
        self._group: Any = distributed.new_group(backend="gloo", timeout=timedelta(days=1))
        self._told = False
        self._missed = 0
        self._before: str | None = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def is_dissolved(self) -> bool:
        """Whether ranks stayed away twice in a row: nobody waits for them any more."""
        return self._missed > 1

    def meet(self, position: tuple[int, ...]) -> bool:
        """Whether all ranks come to this position of the training; see :func:`all_came`."""
        if self.is_dissolved or rank_and_world() != (self.rank, self.world):
            return False
        place = f"{self._name}/{'.'.join(map(str, position))}"
        if not all_came(place, AT_MEASUREMENT):
            self._missed += 1
            return False
        self._missed = 0
        if self.leads and self._before not in (None, place):
            # All have left the place before, since all are here.
            for part in ("all", *range(self.world)):
                _store().delete_key(f"{self._before}/{part}")
        self._before = place
        return True

    def close(self) -> None:
        """Leave the group of this rank's own; the training's are not touched."""
        if distributed.is_initialized():
            _let_threads_end()
            distributed.destroy_process_group(self._group)

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, by rank, on every rank.

        Raises:
            InputError, OutOfMemoryError, RuntimeError: on every rank, what was raised on one.
        """
        return self._exchange("gather", item)

    def broadcast(self, item: Any) -> Any:
        """Rank 0's item, on every rank."""
        return self._exchange("broadcast", item if self.leads else None)[0]

    def distribute(self, jobs: Sequence[Job], work: Callable[[Job], Found]) -> Iterator[Found]:
        """What some work finds for each job, in order, on every rank; each does its share.

        A rank without a job in the last round repeats the last one: a sharded model needs all
        ranks in each of its passes. A model whose layers need the same images on all ranks
        (tensor parallelism) gets them: every rank does every job.
        """
        if not self._divides:
            yield from map(work, jobs)
            return
        for start in range(0, len(jobs), self.world):
            found = work(jobs[min(start + self.rank, len(jobs) - 1)])
            yield from self._exchange("share", found)[: len(jobs) - start]

    def same(self, model: nn.Module) -> bool:
        """Whether the model has the same weights on all ranks; a sharded one is whole anyway."""
        if is_sharded(model):
            return True
        return len(set(self.gather(state_hash(model.named_parameters())))) == 1

    @contextmanager
    def in_step(self) -> Iterator[None]:
        """Tell the others when this rank fails inside, so that none of them waits for it."""
        self._told = False
        try:
            yield
        except Exception as error:
            if not self._told:
                self._exchange("end", None, error)
            raise
        self._exchange("end", None)

    def _exchange(self, place: str, item: Any, error: Exception | None = None) -> list[Any]:
        sent = _Sent(place, tree_map_only(Tensor, _packed, item), _portable(error, self.rank))
        got: list[Any] = [None] * self.world
        distributed.all_gather_object(got, sent, group=self._group)
        failures = [one.error for one in got if one.error is not None]
        if failures:
            self._told = True
            if error is not None:
                return []  # this rank's own is on its way already
            raise failures[0]
        if any(one.place != place for one in got):
            self._told = True
            places = ", ".join(f"rank {k} at {one.place}" for k, one in enumerate(got))
            raise RuntimeError(f"the ranks measured different things ({places})")
        got[self.rank] = None  # this rank's own item needs no unpacking
        items = [
            None if one is None else tree_map_only(_Packed, _unpacked, one.item) for one in got
        ]
        items[self.rank] = item
        return items


class _Sent(NamedTuple):
    place: str
    item: Any
    error: Exception | None


class _Packed:
    """A tensor on its way: on the CPU, with a note whether it was."""

    def __init__(self, tensor: Tensor) -> None:
        self.kind = tensor.device.type
        self.tensor = tensor.detach().cpu()


def _packed(tensor: Tensor) -> _Packed:
    return _Packed(tensor)


def _unpacked(packed: _Packed) -> Tensor:
    """On the receiver's own device of that kind."""
    return packed.tensor if packed.kind == "cpu" else packed.tensor.to(packed.kind)


def _portable(error: Exception | None, rank: int) -> Exception | None:
    """An error that can be sent: its kind as far as callers tell kinds apart, and its text."""
    if error is None:
        return None
    for kind in (InputError, torch.OutOfMemoryError, MemoryError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"rank {rank}: {type(error).__name__}: {error}")


def form(given: str, *, divides: bool = True) -> RankGroup | None:
    """The group of all ranks, if all of them come to this place; None for a rank on its own.

    Args:
        given: a hash of what all ranks must have been given alike.
        divides: whether each rank takes its own images, see :func:`can_divide`.

    Raises:
        InputError: on all ranks, if they were not.
    """
    rank, world = rank_and_world()
    if world == 1:
        return None
    # If ranks missed each other before (one came alone, or too late), none waits there again.
    name = next(name for name in map("group{}".format, _group_numbers) if not _is_over(name))
    if not all_came(name, AT_ATTACH):
        logger.warning(
            "hfc_probe: expected all %d ranks to come within %g s, got fewer, so the work is not "
            "shared%s; make the same calls on every rank",
            world,
            AT_ATTACH,
            "" if rank == 0 else f" and rank {rank} has no part in it",
        )
        return None
    group = RankGroup(name, divides)
    all_given = group.gather(given)
    different = [k for k, one in enumerate(all_given) if one != all_given[0]]
    if different:
        raise InputError(
            "ranks: expected the same images, pixels= and measurements on all ranks, got others "
            f"on rank {', '.join(map(str, different))} than on rank 0; give each rank the whole "
            "validation data"
        )
    return group


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are spread over ranks (FSDP1, FSDP2, tensor parallelism).

    >>> is_sharded(nn.Linear(2, 2))
    False
    """
    return _is_fsdp(model) or any(hasattr(p, "full_tensor") for p in model.parameters())


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """FSDP1's weights in one piece inside, on every rank; all of them must come here."""
    if not any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        yield
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        yield


def can_divide(model: nn.Module) -> bool:
    """Whether each rank may show the model other images at the same time.

    Data-parallel models can, FSDP among them; the layers of tensor parallelism need the same
    images on all ranks.
    """
    spread: list[Any] = [p for p in model.parameters() if hasattr(p, "full_tensor")]
    meshes = [parameter.device_mesh for parameter in spread]
    _, world = rank_and_world()
    return not meshes or (
        _is_fsdp(model) and all(m.ndim == 1 and m.size() == world for m in meshes)
    )


def _is_fsdp(model: nn.Module) -> bool:
    names = ("FullyShardedDataParallel", "FSDPModule")  # FSDP1, and what fully_shard mixes in
    return any(kind.__name__ in names for m in model.modules() for kind in type(m).__mro__)


def share_buffers(group: RankGroup, model: nn.Module) -> None:
    """Give this rank rank 0's buffers (BatchNorm's statistics differ from rank to rank).

    Call it on an isolated model, which puts its own back.
    """
    buffers = [b for b in model.buffers() if not b.is_meta]
    if len(set(group.gather(state_hash(model.named_buffers())))) == 1:
        return
    for own, leaders in zip(buffers, group.broadcast(buffers), strict=True):
        if not group.leads:
            own.data.copy_(leaders)


class Alone:
    """What a rank that measures by itself has in place of a :class:`RankGroup`."""

    rank, world, leads = 0, 1, True

    def gather(self, item: Any) -> list[Any]:
        return [item]

    def broadcast(self, item: Any) -> Any:
        return item


@contextmanager
def together(given: str) -> Iterator[RankGroup | Alone]:
    """For one piece of work: the ranks that come to it, or this one alone; as :func:`form`."""
    group = form(given)
    if group is None:
        yield Alone()
        return
    try:
        with group.in_step():
            yield group
    finally:
        group.close()
