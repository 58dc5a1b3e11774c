"""One family of checks for settings: each returns the value in one form, or says what was wrong.

All of them accept anything, and raise only :class:`~hfc_probe.ground.errors.InputError`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

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
    return int(value if isinstance(value, Integral) else number)


def wholes(
    name: str, value: Any, minimum: int = 1, maximum: int | None = None, *, increasing: bool = True
) -> tuple[int, ...]:
    """One whole number or several of them (sequence, range, array, tensor), as a tuple.

    Raises:
        InputError: none, one that is not whole or out of bounds, or (if they are to increase)
            out of order.

    >>> wholes("topk", [1, 5.0])
    (1, 5)
    """
    found = tuple(whole(name, one, minimum, maximum) for one in listed(value))
    if not found:
        raise InputError(f"{name}: expected at least one number, got none")
    return _in_order(name, found, value) if increasing else found


def number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    what: str = "number",
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
        raise InputError(f"{name}: expected a {what}{bounds}, got {shown(value)}")
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
    return _in_order(name, found, value) if increasing else found


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


def flag(name: str, value: Any) -> bool:
    """A setting that is on or off. Text is refused: "false" would count as true.

    Raises:
        InputError: anything but True or False.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def text(name: str, value: Any, what: str = "text") -> str:
    """A setting that is text.

    Raises:
        InputError: anything else.
    """
    if not isinstance(value, str):
        raise InputError(f"{name}: expected {what}, got {shown(value)}")
    return value


def path(name: str, value: Any) -> str:
    """The path of a file or a folder.

    Raises:
        InputError: anything that is no path.
    """
    try:
        return os.fsdecode(value)
    except Exception:  # whatever a stranger's __fspath__ raises
        raise InputError(f"{name}: expected a path, got {shown(value)}") from None


def file(name: str, value: Any) -> str:
    """The path of a file that can be written; missing folders are no hindrance.

    Raises:
        InputError: no path, a directory, or a place where no file can be.
    """
    given = path(name, value)
    if "\0" in given or os.path.isdir(given) or not os.path.basename(given):
        raise InputError(f"{name}: expected the path of a file, got {shown(value)}")
    folder = os.path.dirname(os.path.abspath(given))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise InputError(
            f"{name}: expected a file in a folder that can be written to, got {shown(value)}"
        )
    return given


def function(name: str, value: Any, form: str) -> Any:
    """A setting that is called.

    Raises:
        InputError: anything that cannot be.
    """
    if not callable(value):
        raise InputError(f"{name}: expected {form}, got {shown(value)}")
    return value


def plain(settings: Any) -> None:
    """Check a dataclass's settings whose type or name says all: flags, ``seed``, ``samples``.

    Raises:
        InputError: one of them is something else.
    """
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if one.type in ("bool", bool):
            keep(settings, **{one.name: flag(one.name, value)})
        elif one.name == "seed":
            keep(settings, seed=whole("seed", value, 0, 2**63 - 1))
        elif one.name == "samples" and one.type in ("int", int):
            keep(settings, samples=whole("samples", value))


def keep(settings: Any, **values: Any) -> None:
    """Set fields of a frozen dataclass: a checked value in place of what was given."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


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
        said = " ".join(ascii(value).split())
    except Exception:
        said = type(value).__name__
    return said if len(said) <= 80 else f"{said[:77]}..."


def _number(value: Any) -> float:
    """The value as a float; NaN if it is not a single number."""
    try:
        kind = str(getattr(value, "dtype", ""))
        if isinstance(value, (bool, str, bytes)) or "bool" in kind or "complex" in kind:
            return math.nan
        return math.nan if getattr(value, "ndim", 0) else float(value)
    except Exception:  # whatever a stranger's object raises
        return math.nan


def _in_order(name: str, found: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if list(found) != sorted(set(found)):
        raise InputError(
            f"{name}: expected increasing numbers without repetition, got {shown(value)}"
        )
    return found


def _within(value: float, low: float, high: float, open_low: bool, open_high: bool) -> bool:
    above = value > low if open_low else value >= low
    return above and (value < high if open_high else value <= high)


def _bounds(low: float, high: float, open_low: bool, open_high: bool) -> str:
    if math.isfinite(low) and math.isfinite(high) and not open_low and not open_high:
        return f" from {low:g} to {high:g}"
    parts = []
    if math.isfinite(low):
        parts.append(f"above {low:g}" if open_low else f"of at least {low:g}")
    if math.isfinite(high):
        parts.append(f"below {high:g}" if open_high else f"at most {high:g}")
    return f" {' and '.join(parts)}" if parts else ""
