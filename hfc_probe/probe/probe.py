"""The probe: it measures on schedule and logs, and leaves no trace.

Long because one class holds all state of a training's measurements: counts, budget, history.
"""

from __future__ import annotations

import atexit
import functools
import logging
import sys
import time
import traceback
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ..core import event_file
from ..core.provenance import images_hash, weights_hash
from ..core.result import caution, origin
from ..data.samples import PixelSpace, Samples
from ..measurements import Measurement, Result
from ..model.isolation import unwrap
from ..model.shared_logits import SharedLogits
from ..model.subject import Predict, subject_of
from ..ranks import RankGroup, is_sharded, rank_and_world
from .schedule import FIRST_RUN, Budget, Every
from .state import ProbeState
from .steps import count_steps

logger = logging.getLogger("hfc_probe")


_FAILURES = 3


_LONGEST = 60.0  # seconds that one measurement may take when closing: ranks may be waiting


_open: weakref.WeakSet[Probe] = weakref.WeakSet()


@dataclass
class _Entry:
    """One measurement with its schedule and its history."""

    key: str
    measurement: Measurement
    every: Every
    due: int = 0
    runs: int = 0
    failures: int = 0  # in a row
    failed: int = 0  # in all
    error: str = ""
    waiting: bool = False
    last_position: tuple[int, int] | None = None
    forwards: int | None = None
    overhead: float = 0.0  # seconds beside the forward passes
    estimate: float = 0.0

    @property
    def off(self) -> bool:
        return self.failures >= _FAILURES


class Probe:
    """Measures a model on schedule while it trains; made by :func:`attach`.

    Attributes:
        results: the latest result of every measurement, by name; on rank 0 where there are
            several ranks.
        steps, epochs: how many have ended. What is logged carries the step count, or the
            epoch count where no steps are counted.
        samples: the fixed images looked at; None where no measurement needs any.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        samples: Samples | None,
        entries: list[_Entry],
        group: RankGroup | None,
        pixels: PixelSpace | None,
        predict: Predict | None,
        budget: Budget,
        strict: bool,
        optimizer: torch.optim.Optimizer | None,
        writers: list[Any],
        owns_writers: bool,
        final: bool,
    ) -> None:
        self.results: dict[str, Result] = {}
        self.steps = 0
        self.epochs = 0
        self.samples = samples
        self._model = model
        self._entries = entries
        self._group = group
        self._alone_leads = rank_and_world()[0] == 0
        self._loads = self._calls = 0
        self._retry: int | None = None
        self._ranks: RankGroup | None = None
        self._pixels = pixels
        self._predict = predict
        self._budget = budget
        self._strict = strict
        self._final = final
        self._writers = writers
        self._owns_writers = owns_writers
        self._writer_failures = 0
        self._layout_logged = False
        self._seconds_per_forward: float | None = None
        self._trial_seconds = 0.0
        self._closed = False
        self._warned: set[str] = set()
        event_file.prepare(writers)
        if samples is not None:
            images_hash(samples)  # now, so that no measurement pays for it
        self._warn_of_another()
        self._started = time.perf_counter()
        self._elapsed_before = 0.0
        self._counting = False  # whether the optimizer's steps have come here by themselves
        self._hook = count_steps(optimizer, self._count_step) if optimizer is not None else None
        # A script that never calls close() still learns how often each measurement ran.
        self._at_exit = functools.partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)

    def step(self) -> None:
        """One optimizer step has ended. Not needed where the probe was given the optimizer."""
        if self._counting:
            self._warn_once(
                "step", "probe.step() is ignored: this probe counts its optimizer's steps itself"
            )
            return
        self._end_step()

    def end_epoch(self) -> None:
        """One epoch has ended: measure what is due."""
        if self._is_closed("end_epoch"):
            return
        self.epochs += 1
        if self._hook is not None and not self.steps:
            self._warn_once(
                "steps",
                "an epoch ended and no step of the optimizer was counted; if it takes its steps in "
                "another way than by step(), call probe.step() after each",
            )
        self._run_due(epoch=self.epochs)

    def measure(self) -> dict[str, Result]:
        """Measure everything now, whatever the schedule and the budget; the results by name."""
        if not self._is_closed("measure"):
            self._calls += 1
            shared = SharedLogits(self._model)
            for entry in self._entries if self._gathers() else []:
                entry.due += 1
                self._run(entry, shared)
        return self.results

    def close(self) -> None:
        """Measure the trained model, detach, say how often each measurement ran.

        What was not measured with the weights as they are now is measured once, so that
        :attr:`results` are of the trained model, as far as it takes no longer than the budget's
        share of the training or 5 seconds, and a minute at most. That is left out with
        ``final=False``, while an exception is handled, and at the end of the program.
        """
        self._end(final=self._final and sys.exc_info()[0] is None)

    def _end(self, *, final: bool) -> None:
        if self._closed:
            return
        self._closed = True
        _open.discard(self)
        atexit.unregister(self._at_exit)
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        try:
            self._report_schedule()
            if final and self._leads:
                self._measure_final()
        finally:
            self._close_group()
            self._close_writers()

    def _close_group(self) -> None:
        if self._group is not None:
            self._group.close()

    def _close_writers(self) -> None:
        for writer in self._writers if self._owns_writers else []:
            try:
                writer.close()
            except OSError as error:
                if "writer" in self._warned:  # said already, when it could not be written
                    continue
                self._warn_once("close", f"the event file could not be closed: {error}")

    def _measure_final(self) -> None:
        """Measure what is not measured with these weights yet, as far as that is within reason."""
        if not (self.steps or self.epochs) or is_sharded(self._model):  # whose ranks may be gone
            return
        self._ranks = None  # some may be gone: rank 0 measures alone
        weights = weights_hash(unwrap(self._model))
        shared = SharedLogits(self._model)
        most = min(_LONGEST, max(FIRST_RUN, self._budget.share * self._elapsed()))
        for entry in self._entries:
            result = self.results.get(entry.key)
            if entry.off or (result is not None and result.provenance["weights"] == weights):
                continue
            estimate = self._estimate(entry)
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
                logger.info("hfc_probe: %s measured the trained model when closing", entry.key)

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
            "measurements": {
                e.key: {
                    "due": e.due,
                    "runs": e.runs,
                    "failures": e.failures,
                    "failed": e.failed,
                    "waiting": e.waiting,
                    "last": None if e.last_position is None else list(e.last_position),
                }
                for e in self._entries
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; measurements that are new start afresh.

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
                entry.due, entry.runs, entry.failures = saved.due, saved.runs, saved.failures
                entry.failed = saved.failed
                entry.waiting, entry.last_position = saved.waiting, saved.last
        self.resume(read.steps, read.epochs)

    def resume(self, steps: int, epochs: int) -> None:
        """Go on at these counts; :meth:`load_state_dict` calls it.

        What the probe's own ``log_dir`` holds of later steps, from a run that was interrupted
        after its checkpoint, is marked as void, so that TensorBoard shows no step twice.
        """
        self.steps, self.epochs = steps, epochs
        self._loads, self._calls = self._loads + 1, 0
        for writer in self._writers if self._owns_writers else []:
            event_file.log_restart(writer, (steps or epochs) + 1)

    def _count_step(self) -> None:
        """The optimizer has taken a step, by itself."""
        self._counting = True
        self._end_step()

    def _end_step(self) -> None:
        if self._is_closed("step"):
            return
        self.steps += 1
        self._run_due(step=self.steps)

    def _run_due(self, *, step: int | None = None, epoch: int | None = None) -> None:
        self._calls = 0
        if self._together is not None and not self._looks(step, epoch):
            return
        if self._gathers():
            self._run_entries(step, epoch)

    def _looks(self, step: int | None, epoch: int | None) -> bool:
        """Whether the ranks meet at this step: they must agree on it without asking."""
        due = epoch is not None or step == self._retry
        return due or any(entry.every.due(step=step) for entry in self._entries)

    @property
    def _together(self) -> RankGroup | None:
        """The ranks that measure together, as long as they keep coming."""
        return None if self._group is None or self._group.is_dissolved else self._group

    def _gathers(self) -> bool:
        """Whether this rank measures now: with the others, or alone if they stay away."""
        self._ranks = None
        group = self._together
        if group is None:
            return self._leads and (self._group is None or not is_sharded(self._model))
        if not group.meet((self._loads, self.epochs, self.steps, self._calls)):
            sharded = is_sharded(self._model)
            self._warn_once(
                "missed",
                "not all ranks came to measure together, so "
                + (
                    "nothing of this sharded model is measured"
                    if sharded
                    else "rank 0 measures alone"
                )
                + "; make the same calls of the probe on every rank",
            )
            return self._leads and not sharded
        if group.same(self._model):
            self._ranks = group
            return True
        if self._leads:
            self._warn_once(
                "weights",
                "the ranks hold different weights, so rank 0 measures its own alone; is the model "
                "trained without DistributedDataParallel?",
            )
        return self._leads

    def _run_entries(self, step: int | None, epoch: int | None) -> None:
        position = (self.steps, self.epochs)
        shared = SharedLogits(self._model)
        for entry in self._entries:
            if entry.every.due(step=step, epoch=epoch) and not entry.off:
                last = entry.last_position
                if step is None and last is not None and last[0] == position[0] > 0:
                    continue  # measured after this very step already
                entry.due += 1
                entry.waiting = True
            # What did not fit the budget is tried again after every epoch, and after every
            # step too where it is scheduled by steps.
            again = epoch is not None or entry.every.steps is not None
            if entry.waiting and again and not entry.off:
                fits = self._fits(entry)
                if fits if self._ranks is None else self._ranks.broadcast(fits):
                    self._run(entry, shared)
        if self._ranks is not None:
            self._retry = self._ranks.broadcast(self._next_look())

    def _next_look(self) -> int | None:
        """The step at which the ranks meet again for what did not fit the budget."""
        waiting = [e for e in self._entries if e.waiting and not e.off and e.every.steps]
        if not waiting:
            return None
        elapsed = self._elapsed()
        seconds = min(self._budget.wait(e.key, e.estimate, elapsed) for e in waiting)
        # Half of what is missing, so that a training that speeds up is not late.
        return self.steps + max(1, min(1000, int(0.5 * seconds * self.steps / elapsed)))

    @property
    def _leads(self) -> bool:
        """Whether this process logs, and measures if one alone does: the only one, or rank 0.

        Once attached it stays what it was, also after the process group's end.
        """
        return self._alone_leads

    def _fits(self, entry: _Entry) -> bool:
        entry.estimate = self._estimate(entry)
        # What failed is tried again whatever it took, until it works or is switched off.
        fits = entry.failures > 0 or self._budget.fits(entry.key, entry.estimate, self._elapsed())
        # Booked now and not before: a trial is no reason to put off what asked for it.
        self._budget.spent += self._trial_seconds
        self._trial_seconds = 0.0
        if not fits and not entry.runs:
            self._warn_once(
                f"late {entry.key}",
                f"{entry.key} should take about {entry.estimate:.1f} s and is put off until that "
                f"fits the budget of {100 * self._budget.share:g} % of the training time; raise "
                "budget= to see it earlier",
            )
        return fits

    def _estimate(self, entry: _Entry) -> float:
        """Seconds that a measurement should take: as the last time, else from a trial."""
        known = self._budget.seconds.get(entry.key)
        if known is not None:
            return known
        if entry.forwards is None:
            entry.forwards, entry.overhead = self._cost(entry.measurement)
        forwards = entry.forwards * self._forward_seconds() if entry.forwards else 0.0
        return forwards + entry.overhead

    def _cost(self, measurement: Measurement) -> tuple[int, float]:
        """Forward passes and further seconds that a measurement expects to take."""
        if self.samples is None or not measurement.needs_data:
            return 0, 0.0
        count, shape = len(self.samples), self.samples.image_shape
        try:
            return measurement.cost(count, shape), measurement.overhead(count, shape)
        except Exception:
            return 0, 0.0  # let the measurement run and report it

    def _forward_seconds(self) -> float:
        """Seconds per image of a forward pass, from a trial of one batch."""
        if self._seconds_per_forward is None:
            start = time.perf_counter()
            count = 1
            try:
                with subject_of(
                    self._model, self.samples, pixels=self._pixels, predict=self._predict
                ) as subject:
                    images, _ = next(subject.batches())
                    subject.logits(images)  # the first pass warms up
                    begin, count = time.perf_counter(), len(images)
                    subject.logits(images).sum().item()
                self._seconds_per_forward = (time.perf_counter() - begin) / count
            except Exception:
                self._seconds_per_forward = 0.0  # let the measurement run and report it
            self._trial_seconds = time.perf_counter() - start
        return self._seconds_per_forward

    def _run(self, entry: _Entry, shared: SharedLogits, *, logged: bool = True) -> None:
        """Run a measurement, and write it to the event file unless told otherwise.

        Args:
            shared: passes that the measurements due now have in common.
        """
        entry.waiting = False
        entry.last_position = (self.steps, self.epochs)
        if entry.off:
            return
        start = time.perf_counter()
        try:
            result = entry.measurement.run(
                self._model,
                self.samples,
                pixels=self._pixels,
                predict=self._predict,
                ranks=self._ranks,
                shared=shared,
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
            self._report_failure(entry)
            return
        entry.runs += 1
        entry.failures = 0
        self.results[entry.key] = result
        if logged:
            self._log(entry, result, start)
        else:
            self._charge(entry, start)

    def _log(self, entry: _Entry, result: Result, start: float) -> None:
        """Write a result; what that takes belongs to the measurement's cost."""
        step = self._step()
        if self._leads and self._writers and self._writer_failures < _FAILURES:
            try:
                if not self._layout_logged and self._owns_writers:
                    event_file.log_layout(self._writers[0], result.scalars())
                    self._layout_logged = "hfc_accuracy/original" in result.scalars()
                for writer in self._writers:
                    event_file.log_epoch(writer, self.epochs, step)
                    result.log(writer, step)
                if entry.measurement.needs_data:
                    self._log_text(step)
                self._charge(entry, start)
                logged = time.perf_counter()
                self._log_cost(entry, step)
                self._budget.spent += time.perf_counter() - logged
                return
            except Exception:
                if self._strict:
                    raise
                self._writer_failures += 1
                self._warn_once(
                    "writer",
                    "results could not be logged; training goes on and they stay in "
                    f"probe.results\n{traceback.format_exc()}",
                )
        self._charge(entry, start)

    def _step(self) -> int:
        """What is logged is logged at: the step, or the epoch where no steps are counted."""
        return self.steps or self.epochs

    def _charge(self, entry: _Entry, start: float) -> None:
        self._budget.charge(entry.key, time.perf_counter() - start)

    def _log_cost(self, entry: _Entry, step: int) -> None:
        share = self._budget.spent / max(self._elapsed(), 1e-9)
        seconds = self._budget.seconds[entry.key]
        for writer in self._writers:
            writer.add_scalar(f"hfc_cost/seconds/{entry.key}", seconds, step)
            writer.add_scalar("hfc_cost/share", share, step)
            event_file.flush(writer)

    def _log_text(self, step: int) -> None:
        lines = []
        for result in self.results.values():
            said = [*map(caution, result.caveats), result.sentence(), origin(result)]
            lines += [f"- {event_file.as_markdown(text)}" for text in said[:1]]
            lines += [f"  {event_file.as_markdown(text)}" for text in said[1:]]
        for writer in self._writers:
            event_file.log_text(writer, "hfc_report/summary", "\n".join(lines), step)

    def _report_failure(self, entry: _Entry) -> None:
        self._warn_once(
            f"failed {entry.key}",
            f"{entry.key} failed at step {self.steps}, epoch {self.epochs}; training goes on\n"
            f"{traceback.format_exc()}",
        )
        if entry.off:
            self._warn_once(
                f"off {entry.key}", f"{entry.key} is switched off after {_FAILURES} failures"
            )

    def _report_schedule(self) -> None:
        if not self._leads:
            return
        for entry in self._entries:
            line = (
                f"{entry.key} ran {entry.runs} of the {entry.due} times it was due "
                f"({entry.every}, budget {100 * self._budget.share:g} %)"
            )
            if not entry.due:
                line = f"{entry.key} was not due yet ({entry.every})"
                forgotten = self._forgotten(entry.every)
                if forgotten:
                    self._warn_once(f"never {entry.key}", f"{line}: {forgotten}")
                    continue
            held_back = entry.runs + entry.failed < entry.due
            if entry.failed:
                last = f", the last time with {entry.error}" if entry.error else ""
                off = " and is switched off" if entry.off else ""
                times = f"{entry.failed} time{'s' if entry.failed > 1 else ''}"
                self._warn_once(
                    f"failed at close {entry.key}", f"{line}: it failed {times}{last}{off}"
                )
            elif entry.due and not entry.runs:
                self._warn_once(
                    f"never {entry.key}",
                    f"{line}; raise budget= or call probe.measure() to see it",
                )
            elif held_back:
                self._warn_once(f"held back {entry.key}", f"{line}; a larger budget= gives it more")
            else:
                logger.info("hfc_probe: %s", line)

    def _forgotten(self, every: Every) -> str | None:
        """The call that a training loop seems to lack where nothing ever was due."""
        if every.epochs is not None and self.steps and not self.epochs:
            return f"{self.steps} steps, but no epoch ended; call probe.end_epoch() after each"
        if every.epochs is None and self.epochs and not self.steps:
            return "no steps were counted; pass optimizer= to attach, or call probe.step()"
        return None

    def _elapsed(self) -> float:
        return self._elapsed_before + time.perf_counter() - self._started

    def _is_closed(self, call: str) -> bool:
        if self._closed:
            self._warn_once("closed", f"probe.{call}() is ignored: the probe is closed")
        return self._closed

    def _warn_of_another(self) -> None:
        """Say so where a probe that is still attached writes into the same directory."""
        for writer in self._writers if self._owns_writers else []:
            for other in _open:
                if any(getattr(one, "log_dir", None) == writer.log_dir for one in other._writers):
                    self._warn_once(
                        "another",
                        f"another probe is still attached and writes into {writer.log_dir} too; "
                        "close() it, or give each a log_dir of its own",
                    )
        _open.add(self)

    def _warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            logger.warning("hfc_probe: %s", message)


def _copied(state: dict[str, Any]) -> Probe:
    """A closed probe with the counts of another, for a model to be copied and unpickled with."""
    probe = Probe(
        model=nn.Identity(),
        samples=None,
        entries=[],
        group=None,
        pixels=None,
        predict=None,
        budget=Budget(1.0),
        strict=False,
        optimizer=None,
        writers=[],
        owns_writers=False,
        final=False,
    )
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
