"""What a probe keeps and says: the history of each measurement, event files, warnings, failures."""

from __future__ import annotations

import logging
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..core import event_file
from ..core.result import caution, origin
from ..measurements import Measurement, Result
from .schedule import Every
from .sets import ImageSet
from .state import EntryState

logger = logging.getLogger("hfc_probe")

_FAILURES = 3


_open: weakref.WeakSet[Journal] = weakref.WeakSet()


@dataclass(eq=False)
class Entry:
    """One measurement with its schedule and its history."""

    key: str
    measurement: Measurement
    every: Every
    images: ImageSet = field(default_factory=ImageSet)
    due: int = 0
    runs: int = 0  # when it was due, or asked for
    at_close: bool = False  # measured the trained model besides
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

    def state_dict(self) -> dict[str, Any]:
        """Its history as plain values."""
        return {
            "due": self.due,
            "runs": self.runs,
            "failures": self.failures,
            "failed": self.failed,
            "waiting": self.waiting,
            "last": None if self.last_position is None else list(self.last_position),
        }

    def restore(self, saved: EntryState) -> None:
        self.due, self.runs, self.waiting = saved.due, saved.runs, saved.waiting
        self.failures, self.failed, self.last_position = saved.failures, saved.failed, saved.last


class Journal:
    """Writes results to event files, and says once what goes wrong.

    Args:
        writers: those of rank 0, by the name of the set that they log; none on other ranks.
        own: those of them that are the probe's own, to be closed with it.
        strict: raise what a writer raises.
    """

    def __init__(
        self, writers: Mapping[str, Sequence[Any]], *, own: Sequence[Any], strict: bool
    ) -> None:
        self._writers = writers
        self.writers = [one for of_set in writers.values() for one in of_set]
        self._own = own
        self._strict = strict
        self._failures = 0
        self._with_layout: set[str] = set()  # names of sets
        self._warned: set[str] = set()
        event_file.prepare(self.writers)
        self._warn_of_another()

    def warn_once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            logger.warning("hfc_probe: %s", message)

    def log(
        self, entry: Entry, results: Mapping[str, Result], *, position: tuple[int, int]
    ) -> bool:
        """Write an entry's latest result; whether that was done."""
        if not self.writers or self._failures >= _FAILURES:
            return False
        failures, result, step = self._failures, results[entry.key], position[0] or position[1]
        with self._survived():
            name = entry.images.name
            writers = self._writers[name]
            new = self._own and name not in self._with_layout
            if new and event_file.log_layout(writers[0], result.labels()):
                self._with_layout.add(name)
            for writer in writers:
                event_file.log_epoch(writer, position[1], step)
                result.log(writer, step)
            if entry.measurement.needs_data:
                of_set = [
                    one for key, one in results.items() if key.startswith(entry.images.key(""))
                ]
                self._log_text(writers, of_set, step)
        return self._failures == failures

    def log_cost(self, key: str, *, seconds: float, share: float, step: int) -> None:
        """Write what a measurement took, and the share of the training that all have taken."""
        with self._survived():
            for writer in self._writers[""]:
                writer.add_scalar(f"hfc_cost/seconds/{key}", seconds, step)
                writer.add_scalar("hfc_cost/share", share, step)
                event_file.flush(writer)

    def log_restart(self, step: int) -> None:
        """Mark as void what the probe's own directory holds of this step and later ones."""
        for writer in self._own:
            event_file.log_restart(writer, step)

    def report_failure(self, entry: Entry, *, position: tuple[int, int]) -> None:
        """Say that a measurement has failed, with the traceback of what is being handled."""
        self.warn_once(
            f"failed {entry.key}",
            f"{entry.key} failed at step {position[0]}, epoch {position[1]}; training continues\n"
            f"{traceback.format_exc()}",
        )
        if entry.off:
            self.warn_once(
                f"off {entry.key}", f"{entry.key} is switched off after {_FAILURES} failures"
            )

    def report_schedule(
        self, entries: Sequence[Entry], *, budget: float, position: tuple[int, int]
    ) -> None:
        """Say how often each measurement ran, and what to do if it did so seldom."""
        for entry in entries:
            line = (
                f"{entry.key} ran {entry.runs} of the {entry.due} times it was due "
                f"({entry.every}, budget {100 * budget:g} %)"
            )
            line += " and measured the trained model when closing" * entry.at_close
            if not entry.due:
                line = f"{entry.key} was not due yet ({entry.every})"
                forgotten = _forgotten_call(entry.every, *position)
                if forgotten:
                    self.warn_once(f"never {entry.key}", f"{line}: {forgotten}")
                    continue
            held_back = entry.runs + entry.failed < entry.due
            if entry.failed:
                last = f", the last time with {entry.error}" if entry.error else ""
                off = " and is switched off" if entry.off else ""
                times = f"{entry.failed} time{'s' if entry.failed > 1 else ''}"
                self.warn_once(
                    f"failed at close {entry.key}", f"{line}: it failed {times}{last}{off}"
                )
            elif entry.due and not (entry.runs or entry.at_close):
                self.warn_once(
                    f"never {entry.key}",
                    f"{line}; raise budget= or call probe.measure() to see it",
                )
            elif held_back:
                self.warn_once(f"held back {entry.key}", f"{line}; a larger budget= gives it more")
            else:
                logger.info("hfc_probe: %s", line)

    def close(self) -> None:
        _open.discard(self)
        for writer in self._own:
            try:
                writer.close()
            except OSError as error:
                if "writer" in self._warned:  # said already, when it could not be written
                    continue
                self.warn_once("close", f"the event file could not be closed: {error}")

    def _log_text(self, writers: Sequence[Any], results: Sequence[Result], step: int) -> None:
        lines = []
        for result in results:
            said = [*map(caution, result.caveats), result.sentence(), origin(result)]
            lines += [f"- {event_file.as_markdown(text)}" for text in said[:1]]
            lines += [f"  {event_file.as_markdown(text)}" for text in said[1:]]
        for writer in writers:
            event_file.log_text(writer, "hfc_report/summary", "\n".join(lines), step)

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """A writer that raises costs what it should have written, and a warning."""
        try:
            yield
        except Exception:
            if self._strict:
                raise
            self._failures += 1
            self.warn_once(
                "writer",
                "results could not be logged; training continues and they stay in "
                f"probe.results\n{traceback.format_exc()}",
            )

    def _warn_of_another(self) -> None:
        """Say so if a probe that is still attached writes into the same directory."""
        for writer in self._own:
            for other in _open:
                if any(getattr(one, "log_dir", None) == writer.log_dir for one in other.writers):
                    self.warn_once(
                        "another",
                        f"another probe is still attached and writes into {writer.log_dir} too; "
                        "close() it, or give each a log_dir of its own",
                    )
        _open.add(self)


def _forgotten_call(every: Every, steps: int, epochs: int) -> str | None:
    """The call that a training loop seems to lack if nothing ever was due."""
    if every.epochs is not None and steps and not epochs:
        return f"{steps} steps, but no epoch ended; call probe.end_epoch() after each"
    if every.epochs is None and epochs and not steps:
        return "no steps were counted; pass optimizer= to attach, or call probe.step()"
    return None
