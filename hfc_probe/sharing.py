"""Measurements shared among the processes of ``torch.distributed``, without a collective.

Rank 0 leads. It could do everything alone; the other ranks help by taking batches off it, and
rank 0 puts the results together in their order, so that they are those of one process. All of
it goes through the key-value store that ``init_process_group`` left behind: a rank that is late,
has died or was never told costs its help and nothing else, and no collective of the training's
own can meet one of ours.

A position in the training, ``at``, is (states loaded, epochs, steps, calls of ``measure()``
since), and so only ever grows: ranks that help wait for rank 0 to come to theirs.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import math
import os
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.serialization import default_restore_location

from .processes import rank_and_world

logger = logging.getLogger("hfc_probe")

Job = TypeVar("Job")
Found = TypeVar("Found")
At = tuple[float, ...]
NEVER: At = (math.inf,)

# A store takes at most 8 MiB at once.
_PART_BYTES = 4 << 20
# Buffers beyond this are not sent; ranks whose own differ do not help then.
_BUFFER_BYTES = 64 << 20
# How long a rank that helps waits for rank 0 to come to the same step, and how often in vain.
_PATIENCE_SECONDS, _IN_VAIN = 60.0, 2
# How long rank 0 waits for a batch that another took before it does it itself: at least.
_GRACE_SECONDS = 2.0
_FIRST_NAP, _LONGEST_NAP = 0.0005, 0.05


class Lost(Exception):  # noqa: N818
    """Work cannot be shared here: the store is gone, or rank 0 has other weights or images."""


class Ended(Lost):
    """Rank 0 has ended what this process was helping with."""


class Sharing:
    """How a measurement's batches are worked off; this one: by this process alone."""

    leads = True

    def begin(self, model: nn.Module, batch_size: int) -> None:
        """Called with the model in isolation, before the measurement."""

    def map(self, jobs: Sequence[Job], work: Callable[[Job], Found]) -> Iterator[Found]:
        """What the work on each job finds, in the order of the jobs."""
        return map(work, jobs)

    def agree(self, make: Callable[[], Found]) -> Found:
        """The same value in every process: the one made by rank 0."""
        return make()


def alone() -> AbstractContextManager[Sharing]:
    """Shared with nobody."""
    return nullcontext(Sharing())


@dataclass(frozen=True)
class Invitation:
    """Rank 0 asks for help.

    Attributes:
        number: of the run, counted up.
        at: where in the training.
        key: the measurement's name.
        batch_size: images per forward pass.
        weights, buffers: what the helper's must add up to.
        given: hash of the images and the settings.
        whole: no measurement yet: all ranks gather the weights of a sharded model.
    """

    number: int
    at: At
    key: str
    batch_size: int = 0
    weights: int = 0
    buffers: int = 0
    given: str = ""
    whole: bool = False


class Board:
    """The store, for values of any kind.

    Raises:
        Lost: from every method, when the store cannot be reached.
    """

    def __init__(self, store: Any, prefix: str = "") -> None:
        self._store, self._prefix = store, prefix
        self._written: dict[str, None] = {}

    def under(self, name: str) -> Board:
        return Board(self._store, f"{self._prefix}{name}/")

    def put(self, name: str, value: Any) -> None:
        buffer = io.BytesIO()
        torch.save(value, buffer, pickle_module=_Compact)
        content = buffer.getvalue()
        parts = range(0, len(content), _PART_BYTES)
        for number, start in enumerate(parts):
            self._set(f"{name}/part{number}", content[start : start + _PART_BYTES])
        # Last, so that whoever sees it finds the parts.
        self._set(name, str(len(parts)).encode())

    def take(self, name: str, device: torch.device | str = "cpu") -> Any:
        """A value; its tensors that were on a GPU are moved to the device, others are not."""
        parts = [self._get(f"{name}/part{k}") for k in range(int(self._get(name)))]

        def place(storage: Any, where: str) -> Any:
            return storage if where == "cpu" else default_restore_location(storage, str(device))

        # A full unpickler: the store holds what processes of this very job have put there.
        return torch.load(io.BytesIO(b"".join(parts)), map_location=place, weights_only=False)

    def mark(self, name: str) -> None:
        self._set(name, b"1")

    def has(self, name: str) -> bool:
        with _store_errors():
            return bool(self._store.check([self._prefix + name]))

    def count(self, name: str) -> int:
        """A number from 0 that no other process gets."""
        return self._add(name, 1) - 1

    def number(self, name: str) -> int:
        """What :meth:`reach` was told last; 0 before."""
        return self._add(name, 0)

    def reach(self, name: str, number: int) -> None:
        self._set(name, str(number).encode())

    def clear(self) -> None:
        """Delete what this process has written."""
        with _store_errors():
            for name in self._written:
                self._store.delete_key(self._prefix + name)
        self._written.clear()

    def _add(self, name: str, by: int) -> int:
        self._written[name] = None
        with _store_errors():
            return int(self._store.add(self._prefix + name, by))

    def _set(self, name: str, content: bytes) -> None:
        self._written[name] = None
        with _store_errors():
            self._store.set(self._prefix + name, content)

    def _get(self, name: str) -> bytes:
        with _store_errors():
            return bytes(self._store.get(self._prefix + name))


class _Compact:
    """What ``torch.save`` pickles with: of a view its own part, not all that lies behind it."""

    class Pickler(pickle.Pickler):
        def reducer_override(self, value: Any) -> Any:
            plain = type(value) is Tensor and value.layout is torch.strided
            if plain and value.untyped_storage().nbytes() > value.nbytes:
                return value.clone().__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            return NotImplemented


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's own for a store that is gone is one of these
        raise Lost(f"the process group's store cannot be reached: {error}") from error


class _Naps:
    """Waiting for others: short naps first, then longer ones."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self._nap = _FIRST_NAP

    def nap(self) -> float:
        """Sleep a little; seconds waited so far."""
        time.sleep(self._nap)
        self._nap = min(2 * self._nap, _LONGEST_NAP)
        return time.monotonic() - self.since


class _Leading(Sharing):
    """Rank 0: asks for help at the first work that can be shared, and does what is left."""

    def __init__(self, crew: Crew, board: Board, invitation: Invitation) -> None:
        self._crew, self._board, self._invitation = crew, board, invitation
        self._turns = itertools.count()
        self.invited = self._alone = False
        self._model: nn.Module | None = None

    def begin(self, model: nn.Module, batch_size: int) -> None:
        self._model, self._batch_size = model, batch_size

    def agree(self, make: Callable[[], Found]) -> Found:
        value = make()
        self._try(self._board.put, f"{next(self._turns)}/agreed", value)
        return value

    def map(self, jobs: Sequence[Job], work: Callable[[Job], Found]) -> Iterator[Found]:
        turn = next(self._turns)
        board, device = self._board, _device(self._model)
        self._try(board.put, f"{turn}/jobs", jobs)
        done: dict[int, Found] = {}
        slowest, waiting, claimed = 0.0, _Naps(), -1

        def do(place: int) -> None:
            nonlocal slowest, waiting
            begin = time.monotonic()
            done[place] = work(jobs[place])
            self._try(board.put, f"{turn}/{place}", done[place])
            waiting = _Naps()
            slowest = max(slowest, waiting.since - begin)

        for place in range(len(jobs)):
            name = f"{turn}/{place}"
            while place not in done:
                if self._alone:
                    do(place)
                elif self.invited and self._try(board.has, name):
                    done[place] = self._try(board.take, name, device)
                    waiting = _Naps()
                    if self._alone:
                        del done[place]
                elif claimed < len(jobs):
                    mine = self._try(board.count, f"{turn}/next")
                    if len(jobs) > 1 and not self.invited:
                        self._try(self._invite)
                    claimed = claimed if mine is None else mine
                    if mine is not None and mine < len(jobs):
                        do(mine)
                elif self._try(board.has, f"{name}/failed") or waiting.nap() > max(
                    _GRACE_SECONDS, 4 * slowest
                ):
                    do(place)
            yield done.pop(place)

    def _invite(self) -> None:
        """Ask for help, once anybody is there to give it; the first job is taken by then."""
        assert self._model is not None
        if not self._crew.board.has("helpers"):
            return
        self.invited = True
        weights, buffers = state_sums(self._model)
        tensors = dict(self._model.named_buffers())
        if sum(t.nbytes for t in tensors.values()) <= _BUFFER_BYTES:
            self._board.put("buffers", tensors)
        self._crew.post(
            self._board,
            replace(
                self._invitation, batch_size=self._batch_size, weights=weights, buffers=buffers
            ),
        )

    def _try(self, call: Callable[..., Any], *args: Any) -> Any:
        """What the call gives; where it fails (no store, nothing to pickle) go on alone."""
        try:
            return None if self._alone else call(*args)
        except Exception as error:
            self._alone = True
            self._crew.leave(error, for_good=isinstance(error, Lost))
            return None


class _Helping(Sharing):
    """Another rank: takes jobs as long as there are any; sees the same results as rank 0."""

    leads = False

    def __init__(self, crew: Crew, board: Board, invitation: Invitation) -> None:
        self._crew, self._board, self._invitation = crew, board, invitation
        self._turns = itertools.count()
        self._model: nn.Module | None = None

    def begin(self, model: nn.Module, batch_size: int) -> None:
        """Check that this process has rank 0's weights, and take over its buffers.

        DDP keeps parameters equal; buffers such as BatchNorm's running statistics drift apart
        within a step. The isolation puts this process's own back.
        """
        self._model = model
        if self._crew.given != self._invitation.given:
            raise Lost("its images or settings are not those of rank 0")
        if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
            raise Lost("its copy of the sharded model could not be made")
        weights, buffers = state_sums(model)
        if weights != self._invitation.weights:
            raise Lost("its weights are not those of rank 0")
        if buffers == self._invitation.buffers:
            return
        if not self._board.has("buffers"):
            raise Lost("its buffers are not those of rank 0, which are too large to send")
        theirs = self._board.take("buffers")
        own = dict(model.named_buffers())
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in theirs.items()}:
            raise Lost("its buffers have other shapes than those of rank 0")
        with torch.no_grad():
            for name, buffer in own.items():
                buffer.copy_(theirs[name])

    def agree(self, make: Callable[[], Found]) -> Found:
        found: Found = self._wait_for(f"{next(self._turns)}/agreed")
        return found

    def map(self, jobs: Sequence[Job], work: Callable[[Job], Found]) -> Iterator[Found]:
        turn = next(self._turns)
        # Rank 0's own: this process may have come to others, say on a processor that rounds
        # otherwise, and a number must mean the same job to all.
        jobs = self._wait_for(f"{turn}/jobs")
        done: dict[int, Found] = {}
        while (mine := self._board.count(f"{turn}/next")) < len(jobs):
            if self._crew.ended(self._invitation):
                raise Ended
            try:
                done[mine] = work(jobs[mine])
                self._board.put(f"{turn}/{mine}", done[mine])
            except BaseException:
                with suppress(Lost):
                    self._board.mark(f"{turn}/{mine}/failed")
                raise
        for place in range(len(jobs)):
            yield done.pop(place) if place in done else self._wait_for(f"{turn}/{place}")

    def gather(self, make: Callable[[], nn.Module]) -> nn.Module:
        """What :meth:`Crew.call_all` calls to, if all the others come.

        Raises:
            Ended: they do not.
        """
        self._board.mark(f"ready/{self._crew.rank}")
        if not self._wait_for("go"):
            raise Ended
        return make()

    def _wait_for(self, name: str) -> Any:
        naps = _Naps()
        while not self._board.has(name):
            if self._crew.ended(self._invitation) or naps.nap() > self._crew.timeout:
                raise Ended
        return self._board.take(name, _device(self._model))


@dataclass
class Crew:
    """The processes that measure one model together; every process makes its own.

    Args:
        board: where they exchange.
        rank, world: of this process, and how many there are.
        timeout: seconds after which a process that says nothing counts as dead: the process
            group's own.
        patience: seconds that a helper waits for rank 0 to come to the same position.
        alive: whether there still is a process group.

    Attributes:
        given: hash of the images and the settings of this process.
        retry: the step, if any, at which all look again although nothing is due.
    """

    board: Board
    rank: int
    world: int
    timeout: float
    patience: float
    alive: Callable[[], bool] = lambda: True
    given: str = ""
    retry: int | None = None
    _gone: bool = False
    _runs: int = 0
    _in_vain: int = 0
    _missed: At | None = None
    _old: deque[Board] = field(default_factory=deque)
    _said: set[str] = field(default_factory=set)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def gone(self) -> bool:
        """Whether there is no exchange any more: rank 0 measures alone."""
        return self._gone or not self.alive()

    def arrive(self, given: str = "") -> None:
        """Tell the others that this process is there, with images and settings of that hash."""
        self.given = given
        self._quietly(lambda: self.board.mark(f"here/{self.rank}"))
        if not self.leads:
            self._quietly(lambda: self.board.mark("helpers"))

    def depart(self) -> None:
        """Tell the others not to wait for this process again."""
        if self.leads:
            self.passed(NEVER)
        else:
            self._quietly(lambda: self.board.mark(f"left/{self.rank}"))

    def wait_for_all(self) -> bool:
        """Wait until every process is there; False where one stays away."""
        naps = _Naps()
        for rank in range(self.world):
            while not self.board.has(f"here/{rank}"):
                if naps.nap() > self.patience:
                    return False
        return True

    # Rank 0

    @contextmanager
    def lead(self, at: At, key: str) -> Iterator[Sharing]:
        """Measure something with the help of the others, as soon as any are there."""
        if self.gone:
            yield Sharing()
            return
        number = self._runs
        board = self._run(number)
        leading = _Leading(self, board, Invitation(number, at, key, given=self.given))
        try:
            yield leading
        finally:
            if leading.invited:
                self._end(board)
            else:
                self._quietly(board.clear)

    def post(self, board: Board, invitation: Invitation) -> None:
        board.put("invitation", invitation)

    def passed(self, at: At, retry: int | None = None) -> None:
        """Rank 0 leaves this position; the next it will look at again is step ``retry``."""
        self.retry = retry
        self._quietly(lambda: self.board.put("passed", (at, retry, self._runs)))

    def call_all(self, at: At) -> bool:
        """Bring every process to the same place, for a collective that all must reach.

        Waited for once at a position, and not for long once that was in vain: the others wait
        for this process in the training's own collectives meanwhile.
        """
        if self.gone or at == self._missed:
            return False
        board = self._run(self._runs)
        self.post(board, Invitation(self._runs, at, "", whole=True))
        naps, away = _Naps(), set(range(1, self.world))
        while away and naps.nap() < self.patience:
            away = {rank for rank in away if not board.has(f"ready/{rank}")}
            if any(self.board.has(f"left/{rank}") for rank in away):
                break
        complete = not away
        board.put("go", complete)
        if complete:
            self._retire(board)
            self._runs += 1
        else:
            self._end(board)
            self._missed, self.patience = at, min(self.patience, _PATIENCE_SECONDS)
        return complete

    def _end(self, board: Board) -> None:
        """Let go those that still help with the latest run, at once or whenever they look."""
        self._runs += 1
        # One number for all runs: a run's own values are deleted after a while.
        self._quietly(lambda: self.board.reach("ended", self._runs))
        self._retire(board)

    # The others

    def invitations(self, at: At) -> Iterator[Invitation]:
        """What rank 0 asks for at a position, until it leaves it; nothing once it is lost."""
        try:
            yield from self._invitations(at)
        except Lost as error:
            self.leave(error)

    def _invitations(self, at: At) -> Iterator[Invitation]:
        naps = _Naps()
        while not self.gone and self._in_vain < _IN_VAIN:
            # Before the look for an invitation: what rank 0 passes, it has posted earlier.
            passed: tuple[At, int | None, int] | None = None
            if self.board.has("passed"):
                passed = self.board.take("passed")
                if passed[0] < at:
                    self._runs = max(self._runs, passed[2])  # those before are of the past
            if self._run(self._runs).has("invitation"):
                invitation: Invitation = self._run(self._runs).take("invitation")
                if invitation.at > at:
                    return  # rank 0 is further already
                self._runs += 1
                if invitation.at == at:
                    self._in_vain = 0
                    yield invitation
                naps = _Naps()
            elif passed is not None and passed[0] >= at:
                self._in_vain, self.retry = 0, passed[1]
                return
            elif naps.nap() > self.patience:
                self._in_vain += 1
                if self._in_vain == _IN_VAIN:
                    self._say(
                        f"rank {self.rank} no longer waits for rank 0, which does not come to the "
                        "same steps and measures without it"
                    )
                return

    def ended(self, invitation: Invitation) -> bool:
        """Whether rank 0 is done with what it asked help for."""
        return self.board.number("ended") > invitation.number

    @contextmanager
    def help(self, invitation: Invitation) -> Iterator[_Helping]:
        """Help rank 0. What goes wrong here is rank 0's to find and to report."""
        board = self._run(invitation.number)
        try:
            yield _Helping(self, board, invitation)
        except Ended:
            pass
        except Lost as error:
            self._say(f"rank {self.rank} does not help to measure: {error}")
        except Exception as error:
            self._say(f"rank {self.rank} could not help with {invitation.key}: {error!r}")
        finally:
            self._retire(board)

    def _run(self, number: int) -> Board:
        return self.board.under(f"run/{number}")

    def _retire(self, board: Board) -> None:
        """Delete a run's values when nobody can be reading them any more."""
        self._old.append(board)
        if len(self._old) > 2:
            self._quietly(self._old.popleft().clear)

    def leave(self, error: Exception, *, for_good: bool = True) -> None:
        """Go on without the others."""
        self._gone = self._gone or for_good
        self._say(f"rank {self.rank} goes on without the others: {error}")

    def _quietly(self, call: Callable[[], None]) -> None:
        try:
            if not self.gone:
                call()
        except Lost as error:
            self.leave(error)

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.info("hfc_probe: %s", what)


def shared(crew: Crew | None, at: At, key: str) -> Callable[[], AbstractContextManager[Sharing]]:
    """What ``Measurement.run`` takes: with the help of a crew, or alone where there is none."""
    return alone if crew is None else partial(crew.lead, at, key)


_made: dict[str, int] = {}


def crew_of(name: str) -> Crew | None:
    """The crew of this process; None where it is alone or the backend has no store to use.

    Args:
        name: what is measured; processes that give the same name, the same number of times,
            are one crew.
    """
    rank, world = rank_and_world()
    if world == 1:
        return None
    from torch.distributed import distributed_c10d

    try:
        store = distributed_c10d._get_default_store()
        timeout = store.timeout.total_seconds()  # type: ignore[attr-defined]
        if isinstance(_underneath(store), torch.distributed.FileStore):  # type: ignore[attr-defined]
            raise ValueError("a FileStore's file keeps everything that was ever written to it")
        if hasattr(store, "clone"):
            # A connection of its own: waiting on a shared one would hold up the training's.
            store = store.clone()
            store.set_timeout(timedelta(seconds=min(_PATIENCE_SECONDS, timeout / 4)))
    except (RuntimeError, ValueError, AttributeError) as error:
        logger.info("hfc_probe: rank 0 measures alone, without the group's store: %s", error)
        return None
    again = _made[name] = _made.get(name, -1) + 1
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    board = Board(store, f"hfc_probe/{restart}/{digest}/{again}/")
    patience = min(_PATIENCE_SECONDS, timeout / 4)
    return Crew(board, rank, world, timeout, patience, torch.distributed.is_initialized)


def _underneath(store: Any) -> Any:
    """The store inside those that put prefixes before its keys."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    return store


def state_sums(model: nn.Module) -> tuple[int, int]:
    """One number for the parameters and one for the buffers, equal where all their bits are."""
    return _sum_of_bits(model.named_parameters()), _sum_of_bits(model.named_buffers())


def _sum_of_bits(tensors: Iterable[tuple[str, Tensor]]) -> int:
    sums = []
    for _, tensor in tensors:
        if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
            continue
        whole = tensor.detach().contiguous()
        whole = torch.view_as_real(whole) if whole.is_complex() else whole
        bits = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[whole.element_size()]
        sums.append(whole.reshape(-1).view(bits).sum(dtype=torch.int64))
    if not sums:
        return 0
    device = sums[0].device
    values = torch.stack([s.to(device) for s in sums]).tolist()  # one wait for all of them
    return sum((2 * k + 1) * value for k, value in enumerate(values))


def fingerprint(*values: Tensor | str) -> str:
    """A hash of tensors' bytes, and of text."""
    digest = hashlib.sha256()
    for tensor in values:
        if isinstance(tensor, str):
            digest.update(tensor.encode() + b"\0")
            continue
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _device(model: nn.Module | None) -> torch.device | str:
    tensors = itertools.chain(model.parameters(), model.buffers()) if model is not None else ()
    return next((t.device for t in tensors), "cpu")
