"""When a measurement is due, and whether it fits the budget."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ground import checks
from ..ground.errors import InputError


@dataclass(frozen=True)
class Every:
    """A measurement is due every N optimizer steps, every N epochs, or both.

    Raises:
        InputError: neither given, or a number that is not a whole one of at least 1.

    >>> [step for step in range(1, 11) if Every(steps=4).due(step=step)]
    [4, 8]
    """

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None:
            raise InputError("Every: expected steps= or epochs=, as in Every(epochs=1), got none")
        for name in ("steps", "epochs"):
            if (value := getattr(self, name)) is not None:
                checks.keep(self, **{name: checks.whole(f"Every: {name}", value)})

    def due(
        self, *, step: int | None = None, epoch: int | None = None, after: int | None = None
    ) -> bool:
        """Whether this step, or the epoch that ends now, is one of them (counted from 1).

        With ``after``, one between that step (or epoch) and this one will do.
        """
        for every, ended in ((self.steps, step), (self.epochs, epoch)):
            if every is not None and ended is not None:
                before = ended - 1 if after is None else after
                if ended // every > before // every:
                    return True
        return False

    def __str__(self) -> str:
        parts = [
            f"every {unit}" if count == 1 else f"every {count} {unit}s"
            for count, unit in ((self.steps, "step"), (self.epochs, "epoch"))
            if count is not None
        ]
        return " and ".join(parts)


FIRST_RUN = 5.0  # seconds: a delay that nobody minds once


@dataclass
class Budget:
    """Share of wall time that measurements may take, all together.

    A measurement runs if the time spent so far and its own estimate fit the share of
    the time elapsed. The first run of each measurement is let through earlier, so that there
    is something to see: when it should take no longer than training has taken so far, or
    5 seconds. So the share at any time is at most the budget plus one run of each measurement.
    """

    share: float
    spent: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.share = checks.number(
            "budget", self.share, 0, 1, open_low=True, what="share of the training time"
        )

    def fits(self, name: str, estimate: float, elapsed: float) -> bool:
        """Whether a measurement that should take ``estimate`` seconds may run now."""
        allowance = self.share * elapsed
        if self.share == 1 or self.spent + estimate <= allowance:
            return True
        return name not in self.seconds and estimate <= max(elapsed, FIRST_RUN)

    def wait(self, name: str, estimate: float, elapsed: float) -> float:
        """Seconds until it fits, if nothing else is measured in between."""
        if self.fits(name, estimate, elapsed):
            return 0.0
        seconds = (self.spent + estimate) / self.share
        if name not in self.seconds:
            seconds = min(seconds, estimate)
        return seconds - elapsed

    def charge(self, name: str, seconds: float) -> None:
        """Book what a run took; the latest one is the next estimate."""
        self.spent += seconds
        self.seconds[name] = seconds
