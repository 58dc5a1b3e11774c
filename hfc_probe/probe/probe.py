"""The probe: it measures on schedule and logs, and leaves no trace.

Long because it is the one class with state.
"""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ..core.provenance import images_hash, weights_hash
from ..data.samples import Samples
from ..ground import checks
from ..measurements import Result
from ..model.isolation import unwrap
from ..model.shared_logits import SharedLogits
from ..model.subject import Predict
from ..ranks import RankGroup, is_sharded
from .costs import Costs
from .journal import Entry, Journal
from .meeting import Meeting
from .schedule import FIRST_RUN, Budget
from .state import ProbeState
from .steps import count_steps

logger = logging.getLogger("hfc_probe")

_LONGEST = 60.0  # seconds that one measurement may take when closing: ranks may be waiting


class Probe:
    """Measures a model on schedule while it trains; made by :func:`attach`.

    Attributes:
        results: the latest result of every measurement, by name, or by "SET/NAME" if there are
            named sets; on rank 0 if there are several ranks.
        steps, epochs: how many have ended. What is logged carries the step count, or the
            epoch count if no steps are counted.
        samples: the fixed images measured on, by name if there are named sets; None if no
            measurement needs any.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        samples: Samples | dict[str, Samples] | None = None,
        entries: Sequence[Entry] = (),
        group: RankGroup | None = None,
        predict: Predict | None = None,
        budget: Budget | None = None,
        strict: bool = False,
        optimizer: torch.optim.Optimizer | None = None,
        writers: Mapping[str, Sequence[Any]] | None = None,
        own_writers: Sequence[Any] = (),
        final: bool = False,
    ) -> None:
        self.results: dict[str, Result] = {}
        self.steps = 0
        self.epochs = 0
        self.samples = samples
        self._model = model
        self._entries = entries
        self._loads = self._calls = 0
        self._retry: int | None = None
        self._predict = predict
        self._budget = Budget(1.0) if budget is None else budget
        self._strict = strict
        self._final = final
        self._closed = False
        self._journal = Journal(writers or {"": ()}, own=own_writers, strict=strict)
        self._warn_once = self._journal.warn_once
        self._meeting = Meeting(group, model, self._warn_once)
        self._costs = Costs(self._budget, model, predict, self.results, self._warn_once)
        for entry in entries:
            if entry.images.samples is not None:
                images_hash(entry.images.samples)  # now, so that no measurement pays for it
        self._started = time.perf_counter()
        self._elapsed_before = 0.0
        self._counting = False  # whether the optimizer's steps have come here by themselves
        self._hook = count_steps(optimizer, self._count_step) if optimizer is not None else None
        # A script that never calls close() still learns how often each measurement ran.
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    def step(self, *, at: int | None = None) -> None:
        """One optimizer step has ended. Not needed if the probe was given the optimizer.

        Args:
            at: number of steps that have ended by now, for trainers that count themselves. It may
                skip steps, and what was due at one of them is measured now; a number that was
                given already is no new step.
        """
        if self._counting:
            self._warn_once(
                "step", "probe.step() is ignored: this probe counts its optimizer's steps itself"
            )
            return
        self._end_step(at)

    def end_epoch(self, *, at: int | None = None) -> None:
        """One epoch has ended: measure what is due.

        Args:
            at: number of epochs that have ended by now, for trainers that count themselves.
        """
        if self._is_closed("end_epoch"):
            return
        before, now = self.epochs, self._ended("end_epoch", at, self.epochs)
        if now < before:
            return
        self.epochs = now
        if self._hook is not None and not self.steps:
            self._warn_once(
                "steps",
                "an epoch ended and no step of the optimizer was counted; if it takes its steps in "
                "another way than by step(), call probe.step() after each",
            )
        self._run_due(epoch=self.epochs, after=before)

    def measure(self) -> dict[str, Result]:
        """Measure everything now, whatever the schedule and the budget; the results by name."""
        if not self._is_closed("measure"):
            self._calls += 1
            shared = SharedLogits(self._model)
            for entry in self._entries if self._gathers() else ():
                entry.due += 1
                self._run(entry, shared)
        return self.results

    def close(self) -> None:
        """Measure the trained model, detach, say how often each measurement ran.

        What was not measured with the weights as they are now is measured once, so that
        :attr:`results` are of the trained model, provided that takes no longer than the larger of
        5 seconds and the budget's share of the training, and at most a minute. That is left out
        with ``final=False``, while an exception is handled, and at the end of the program.
        """
        self._end(final=self._final and sys.exc_info()[0] is None)

    def _end(self, *, final: bool) -> None:
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self._at_exit)
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        try:
            if self._meeting.leads:
                if final:
                    self._measure_final()
                self._journal.report_schedule(
                    self._entries, budget=self._budget.share, position=self._position
                )
        finally:
            self._meeting.close()
            self._journal.close()

    def _measure_final(self) -> None:
        """Measure what is not measured with these weights yet, as far as that is within reason."""
        if not (self.steps or self.epochs) or is_sharded(self._model):  # whose ranks may be gone
            return
        self._meeting.ranks = None  # some may be gone: rank 0 measures alone
        weights = weights_hash(unwrap(self._model))
        shared = SharedLogits(self._model)
        most = min(_LONGEST, max(FIRST_RUN, self._budget.share * self._elapsed()))
        for entry in self._entries:
            result = self.results.get(entry.key)
            if entry.off or (result is not None and result.provenance["weights"] == weights):
                continue
            estimate = self._costs.estimate(entry)
            if estimate > most:
                last = "" if result is None else f" (its result is of {_when(result)})"
                self._warn_once(
                    f"final {entry.key}",
                    f"{entry.key} did not measure the trained model, which should take about "
                    f"{estimate:.1f} s{last}; call probe.measure() before probe.close() to see it",
                )
                continue
            position = entry.last_position
            logged = position is not None and (position[0] or position[1]) == self._step()
            self._run(entry, shared, logged=not logged)
            if self.results.get(entry.key) is not result:
                entry.runs, entry.at_close = entry.runs - 1, True

    def __reduce__(self) -> Any:
        """A copy (of a model that holds its probe, say) has the counts and does nothing."""
        return _copied, (self.state_dict(),)

    def __enter__(self) -> Probe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(final=self._final and kind is None)

    def state_dict(self) -> dict[str, Any]:
        """Counts, schedule and budget as plain values, to be kept in a training checkpoint.

        Taken after :meth:`end_epoch`, it belongs to the end of that epoch.
        """
        return {
            "version": 1,
            "steps": self.steps,
            "epochs": self.epochs,
            "elapsed": self._elapsed(),
            "spent": self._budget.spent,
            "seconds": dict(self._budget.seconds),
            "measurements": {entry.key: entry.state_dict() for entry in self._entries},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from what :meth:`state_dict` gave; measurements that are new start afresh.

        Raises:
            InputError: not such a state.
        """
        read = ProbeState.read(state)
        self._elapsed_before = read.elapsed
        self._started = time.perf_counter()
        self._budget.spent, self._budget.seconds = read.spent, dict(read.seconds)
        for entry in self._entries:
            saved = read.measurements.get(entry.key)
            if saved is not None:
                entry.restore(saved)
        self.resume(read.steps, read.epochs)

    def resume(self, steps: int, epochs: int) -> None:
        """Resume at these counts; :meth:`load_state_dict` calls it.

        What the probe's own ``log_dir`` holds of later steps, from a run that was interrupted
        after its checkpoint, is marked as void, so that TensorBoard shows no step twice.
        """
        self.steps, self.epochs = steps, epochs
        self.results.clear()  # of other weights: no measurement may start from them
        self._loads, self._calls = self._loads + 1, 0
        self._journal.log_restart((steps or epochs) + 1)

    def _count_step(self) -> None:
        """The optimizer has taken a step, by itself."""
        self._counting = True
        self._end_step()

    def _end_step(self, at: int | None = None) -> None:
        if self._is_closed("step"):
            return
        before, now = self.steps, self._ended("step", at, self.steps)
        if now > before:
            self.steps = now
            self._run_due(step=now, after=before)

    def _ended(self, call: str, at: int | None, before: int) -> int:
        """How many steps or epochs have ended: one more than before, unless the trainer says."""
        if at is None:
            return before + 1
        at = checks.whole(f"{call}: at", at, 0)
        if at < before:
            self._warn_once(
                f"back {call}",
                f"probe.{call}(at={at}) is ignored: expected {before} or more, which have ended; "
                "call probe.resume(steps, epochs) if the training returned to a checkpoint",
            )
        return at

    def _run_due(self, *, step: int | None = None, epoch: int | None = None, after: int) -> None:
        """Measure what has become due after an earlier step or epoch."""
        self._calls = 0
        due = [e for e in self._entries if e.every.due(step=step, epoch=epoch, after=after)]
        retried = self._retry is not None and after < self._retry <= self.steps
        # Ranks must agree on the steps at which they meet without asking.
        if self._meeting.together is not None and not (due or retried or epoch is not None):
            return
        if self._gathers():
            self._run_entries(due, by_epoch=epoch is not None)

    def _gathers(self) -> bool:
        return self._meeting.gathers((self._loads, self.epochs, self.steps, self._calls))

    def _run_entries(self, due: list[Entry], *, by_epoch: bool) -> None:
        shared = SharedLogits(self._model)
        for entry in self._entries:
            if entry in due and not entry.off:
                last = entry.last_position
                if by_epoch and last is not None and last[0] == self.steps > 0:
                    continue  # measured after this very step already
                entry.due += 1
                entry.waiting = True
            # What did not fit the budget is tried again after every epoch, and after every
            # step too if it is scheduled by steps.
            again = entry.waiting and (by_epoch or entry.every.steps is not None)
            if again and not entry.off:
                fits = self._costs.fits(entry, self._elapsed())
                if self._meeting.agree(fits):
                    self._run(entry, shared)
        if self._meeting.ranks is not None:
            self._retry = self._meeting.agree(self._next_look())

    def _next_look(self) -> int | None:
        """The step at which the ranks meet again for what did not fit the budget."""
        waiting = [e for e in self._entries if e.waiting and not e.off and e.every.steps]
        if not waiting:
            return None
        elapsed = self._elapsed()
        seconds = min(self._budget.wait(e.key, e.estimate, elapsed) for e in waiting)
        # Half of what is missing, so that a training that speeds up is not late.
        return self.steps + max(1, min(1000, int(0.5 * seconds * self.steps / elapsed)))

    def _run(self, entry: Entry, shared: SharedLogits, *, logged: bool = True) -> None:
        """Run a measurement, which shares passes with those before; write it unless told not to."""
        entry.waiting = False
        entry.last_position = self._position
        if entry.off:
            return
        start = time.perf_counter()
        try:
            result = entry.measurement.run(
                self._model,
                entry.images.samples,
                pixels=entry.images.pixels,
                predict=self._predict,
                ranks=self._meeting.ranks,
                shared=shared,
                last=self.results.get(entry.key),
                step=self.steps,
                epoch=self.epochs,
            )
        except Exception as error:
            self._budget.spent += time.perf_counter() - start
            entry.failures += 1
            entry.failed += 1
            entry.error = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if self._strict:
                raise
            self._journal.report_failure(entry, position=self._position)
            return
        entry.runs += 1
        entry.failures = 0
        self.results[entry.key] = result
        # What logging takes belongs to the measurement's cost.
        logged = logged and self._journal.log(entry, self.results, position=self._position)
        self._budget.charge(entry.key, time.perf_counter() - start)
        if logged:
            start = time.perf_counter()
            self._journal.log_cost(
                entry.key,
                seconds=self._budget.seconds[entry.key],
                share=self._budget.spent / max(self._elapsed(), 1e-9),
                step=self._step(),
            )
            self._budget.spent += time.perf_counter() - start

    @property
    def _position(self) -> tuple[int, int]:
        return self.steps, self.epochs

    def _step(self) -> int:
        """What is logged is logged at: the step, or the epoch if no steps are counted."""
        return self.steps or self.epochs

    def _elapsed(self) -> float:
        return self._elapsed_before + time.perf_counter() - self._started

    def _is_closed(self, call: str) -> bool:
        if self._closed:
            self._warn_once("closed", f"probe.{call}() is ignored: the probe is closed")
        return self._closed


def _copied(state: dict[str, Any]) -> Probe:
    """A closed probe with the counts of another, for a model to be copied and unpickled with."""
    probe = Probe(model=nn.Identity())
    probe.load_state_dict(state)
    probe.close()
    return probe


def _close(probe: weakref.ref[Probe]) -> None:
    """Close a probe that is still there when the program ends."""
    held = probe()
    if held is not None:
        held._end(final=False)


def _when(result: Result) -> str:
    """The place in the training that a result is of."""
    return f"step {result.provenance['step']}, epoch {result.provenance['epoch']}"
