"""What a probe keeps in a training checkpoint, read back with care: files come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ground.errors import InputError

VERSION = 1
_LARGEST = 2**62  # TensorBoard's steps have 64 bits


@dataclass(frozen=True)
class EntryState:
    """History of one measurement; ``last`` is (steps, epochs) of its last run.

    Attributes:
        failures: in a row; ``failed`` in all.
    """

    due: int = 0
    runs: int = 0
    failures: int = 0
    failed: int = 0
    waiting: bool = False
    last: tuple[int, int] | None = None


@dataclass(frozen=True)
class ProbeState:
    """Counts, schedule and budget, as :meth:`hfc_probe.Probe.state_dict` gives them."""

    steps: int
    epochs: int
    elapsed: float
    spent: float
    seconds: dict[str, float] = field(default_factory=dict)
    measurements: dict[str, EntryState] = field(default_factory=dict)

    @classmethod
    def read(cls, state: Any) -> ProbeState:
        """Check a state dict; unknown keys are left alone.

        Raises:
            InputError: not such a state, in one sentence.
        """
        version = state.get("version") if isinstance(state, Mapping) else None
        if type(version) is not int or version != VERSION:
            raise _unfit(f"{type(state).__name__} without version {VERSION}")
        try:
            return cls(
                steps=_count(state, "steps"),
                epochs=_count(state, "epochs"),
                elapsed=_seconds(state, "elapsed"),
                spent=_seconds(state, "spent"),
                seconds={
                    str(key): _seconds(state["seconds"], key) for key in _mapping(state, "seconds")
                },
                measurements={
                    str(key): _entry(one) for key, one in _mapping(state, "measurements").items()
                },
            )
        except KeyError as error:
            raise _unfit(f"one without {error.args[0]}") from error


def _entry(state: Any) -> EntryState:
    if not isinstance(state, Mapping):
        raise _unfit(f"{type(state).__name__} for a measurement")
    waiting, last = state["waiting"], state.get("last")
    if not isinstance(waiting, bool):
        raise _unfit(f"{type(waiting).__name__} for waiting")
    if last is not None:
        if not isinstance(last, (list, tuple)) or len(last) != 2:
            raise _unfit(f"{type(last).__name__} for last")
        named = dict(enumerate(last))
        last = (_count(named, 0), _count(named, 1))
    return EntryState(
        due=_count(state, "due"),
        runs=_count(state, "runs"),
        failures=_count(state, "failures"),
        failed=_count(state, "failed" if "failed" in state else "failures"),
        waiting=waiting,
        last=last,
    )


def _mapping(state: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    value = state[key]
    if not isinstance(value, Mapping):
        raise _unfit(f"{type(value).__name__} for {key}")
    return value


def _count(state: Mapping[Any, Any], key: Any) -> int:
    value = state[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise _unfit(f"{_shown(value)} for {key}")
    return value


def _seconds(state: Mapping[Any, Any], key: Any) -> float:
    value = state[key]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST:
        return float(value)
    if not isinstance(value, float) or not math.isfinite(value) or value < 0:
        raise _unfit(f"{_shown(value)} for {_shown(key)}")
    return value


def _shown(value: Any) -> str:
    """A number or a name, short; of other things only what they are."""
    if isinstance(value, (bool, float, str)) or (isinstance(value, int) and abs(value) < _LARGEST):
        return ascii(value)[:40]
    return type(value).__name__


def _unfit(what: str) -> InputError:
    return InputError(
        f"load_state_dict: expected what Probe.state_dict() returned (version {VERSION}), got "
        f"{what}"
    )
