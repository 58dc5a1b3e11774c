"""Measurements by name, for the command line."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from .. import measurements
from ..core.measurement import Measurement, snake_case
from ..ground.errors import InputError

MEASUREMENTS: Mapping[str, type[Measurement]] = {
    snake_case(name): kind
    for name, kind in sorted(vars(measurements).items())
    if isinstance(kind, type) and issubclass(kind, Measurement) and kind is not Measurement
}


_NONE: Mapping[str, Mapping[str, Any]] = {}


def build(text: str, defaults: Mapping[str, Mapping[str, Any]] = _NONE) -> Measurement:
    """A measurement from its name and settings: ``name`` or ``name:setting=value,…``.

    Several values of one setting are joined by ``+``.

    Args:
        defaults: settings by measurement that hold unless the text says otherwise.

    Raises:
        InputError: an unknown name or setting, or a value that the measurement refuses.

    >>> build("adversarial_accuracy:rhos=0+0.5,steps=7").rhos
    (0.0, 0.5)
    """
    name, _, rest = text.partition(":")
    name = name.strip().replace("-", "_")
    if name not in MEASUREMENTS:
        close = difflib.get_close_matches(name, MEASUREMENTS, n=3, cutoff=0.4)
        raise InputError(
            f"--measure: expected one of {', '.join(MEASUREMENTS)}, got {name!r}"
            f"{'; did you mean ' + ' or '.join(close) + '?' if close else ''}"
        )
    kind = MEASUREMENTS[name]
    known = [field.name for field in dataclasses.fields(kind)]
    options: dict[str, Any] = dict(defaults.get(name, {}))
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"--measure: expected setting=value with a setting of {name} "
                f"({', '.join(known)}), got {part!r}"
            )
        options[key] = _value(value)
    return kind(**options)


def _value(text: str) -> Any:
    if "+" in text.strip("+"):
        return tuple(_value(part) for part in text.split("+"))
    if not text:
        return ()
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


# Nothing that a command line could say.
_NOT_TEXT = re.compile("Callable|Mapping|PathLike|Samples|Score|Tensor")
_WIDTH, _COLUMN = 100, 31


def listing() -> str:
    """Every measurement, and its settings with their defaults and what they are, in a line each."""
    return "\n\n".join(_described(name, kind) for name, kind in MEASUREMENTS.items())


def _described(name: str, kind: type[Measurement]) -> str:
    texts = arguments(kind)
    lines = [name, f"  {summary(kind)}"]
    for field in dataclasses.fields(kind):
        if not _NOT_TEXT.search(str(field.type)):
            head = f"  {field.name}={_text(field.default)}".ljust(_COLUMN)
            room = _WIDTH - len(head) - 1
            lines.append(f"{head} {textwrap.shorten(texts[field.name], room, placeholder=' …')}")
    return "\n".join(lines)


def summary(kind: type[Measurement]) -> str:
    """The first line of a measurement's documentation."""
    return (kind.__doc__ or "").splitlines()[0]


def source(kind: type[Measurement]) -> str:
    """The first work that a measurement's documentation names as its source."""
    _, _, after = inspect.cleandoc(kind.__doc__ or "").partition("\nSource: ")
    return re.split(
        r";|\. (?=[A-Z])|\.$|, who |, which |, and its ", " ".join(after.split("\n\n")[0].split())
    )[0]


def arguments(kind: type[Measurement]) -> dict[str, str]:
    """What each setting is, as the measurement's documentation says, without markup.

    >>> from hfc_probe import FrequencyAccuracy
    >>> arguments(FrequencyAccuracy)["closed"]
    'LFC holds d <= r, as the paper; False: d < r, as its code.'
    """
    section = inspect.cleandoc(kind.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
        plain = re.sub(r":\w+:`~?([^`]*)`|`{1,2}([^`]*)`{1,2}", r"\1\2", " ".join(text.split()))
        found |= dict.fromkeys(names.split(", "), plain)
    return found


def _text(value: Any) -> str:
    """A default as it would be given: the reverse of :func:`_value`."""
    if isinstance(value, tuple):
        return "+".join(map(_text, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
