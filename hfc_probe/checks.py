"""One family of checks for settings: each returns the value in one form, or says what was wrong.

All of them take anything at all, and raise :class:`~hfc_probe.errors.InputError` and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .errors import InputError


def whole(
    name: str, value: Any, minimum: int = 1, maximum: int | None = None, *, what: str = "number"
) -> int:
    """A whole number within bounds: an int, or an integral float, NumPy or torch scalar.

    Raises:
        InputError: a truth value, text, a fraction, anything that is no single number, or out
            of bounds.

    >>> whole("samples", 8.0)
    8
    """
    number = _number(value)
    fits = math.isfinite(number) and number == int(number) and number >= minimum
    if not fits or (maximum is not None and number > maximum):
        bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise InputError(f"{name}: expected a whole {what} {bounds}, got {shown(value)}")
    return int(value)


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """One number within bounds, as a float.

    Raises:
        InputError: not one number, NaN, or out of bounds.

    >>> number("budget", 1, 0, 1, open_low=True)
    1.0
    """
    found = _number(value)
    if not _within(found, low, high, open_low, open_high):
        bounds = _bounds(low, high, open_low, open_high)
        raise InputError(f"{name}: expected a number{bounds}, got {shown(value)}")
    return found


def numbers(
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    open_low: bool = False,
    increasing: bool = True,
) -> tuple[float, ...]:
    """One number or several of them (sequence, range, array, tensor), as a tuple of floats.

    Raises:
        InputError: none, one that is not a number or out of bounds, or (if they are to increase)
            out of order.

    >>> numbers("radii", range(4, 13, 4))
    (4.0, 8.0, 12.0)
    """
    found = tuple(_number(one) for one in listed(value))
    if not found or not all(_within(one, low, high, open_low, False) for one in found):
        bounds = _bounds(low, high, open_low, False)
        raise InputError(f"{name}: expected numbers{bounds}, got {shown(value)}")
    if increasing and list(found) != sorted(set(found)):
        raise InputError(
            f"{name}: expected increasing numbers without repetition, got {shown(value)}"
        )
    return found


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """A setting that names one of a few ways.

    Raises:
        InputError: any other name.
    """
    if not isinstance(value, str) or value not in choices:
        names = [f'"{one}"' for one in choices]
        given = ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else names[0]
        raise InputError(f"{name}: expected {given}, got {shown(value)}")
    return value


def listed(value: Any) -> list[Any]:
    """The items of a sequence, range, array or tensor; anything else alone in a list."""
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        return [value]
    try:
        return list(value)
    except Exception:  # a tensor without dimensions, or whatever a stranger's object does
        return [value]


def shown(value: Any) -> str:
    """What came, for a sentence: short and on one line."""
    try:
        text = " ".join(ascii(value).split())
    except Exception:
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def _number(value: Any) -> float:
    """The value as a float; NaN if it is not a single number."""
    if isinstance(value, (bool, str, bytes)) or str(getattr(value, "dtype", "")).endswith("bool"):
        return math.nan
    try:
        return float(value)
    except Exception:  # whatever a stranger's object raises
        return math.nan


def _within(value: float, low: float, high: float, open_low: bool, open_high: bool) -> bool:
    above = value > low if open_low else value >= low
    return above and (value < high if open_high else value <= high)


def _bounds(low: float, high: float, open_low: bool, open_high: bool) -> str:
    parts = []
    if math.isfinite(low):
        parts.append(f"above {low:g}" if open_low else f"of at least {low:g}")
    if math.isfinite(high):
        parts.append(f"below {high:g}" if open_high else f"at most {high:g}")
    return f" {' and '.join(parts)}" if parts else ""
