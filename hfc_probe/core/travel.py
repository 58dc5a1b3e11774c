"""Results that leave Python and come back: tables of their numbers, and their fields as JSON."""

from __future__ import annotations

import base64
import csv
import importlib
import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..ground import checks
from ..ground.errors import InputError
from ..ground.files import write_atomically

COLUMNS = ("tag", "value", "lower", "upper", "text", "quantity", "part", "radius")


def rows(result: Any) -> list[tuple[Any, ...]]:
    """A row of :data:`COLUMNS` for each scalar; None for what is not known."""
    intervals, labels, found = result.intervals(), result.labels(), []
    for tag, value in result.scalars().items():
        label = labels.get(tag)
        said = (None,) * 4
        if label is not None:
            said = (label.text, label.quantity or None, label.part or None, label.radius)
        found.append((tag, value, *intervals.get(tag, (None, None)), *said))
    return found


def frame(result: Any) -> Any:
    """The rows as a pandas data frame.

    Raises:
        InputError: no pandas.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise InputError(
            "to_frame: expected pandas to be installed, found that it is not; pip install pandas, "
            "or use to_csv()"
        ) from error
    return pandas.DataFrame(rows(result), columns=list(COLUMNS))


def to_csv(result: Any, path: str | os.PathLike[str] | None) -> str:
    """The rows as CSV, written to a file if there is a path."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows(result))
    text = buffer.getvalue()
    if path is not None:
        write_atomically(Path(checks.path("path", path)), text.encode())
    return text


def to_latex(result: Any) -> str:
    """The result's table for LaTeX, with the rules of booktabs."""
    from tabulate import tabulate

    heads, body = result.table()
    align = ["left"] + ["right"] * (len(heads) - 1)
    return tabulate(body, heads, "latex_booktabs", colalign=align, disable_numparse=True)


def packed(value: Any) -> Any:
    """A field as JSON can hold it and :func:`unpacked` gives it back, to the last bit.

    Raises:
        TypeError: a value of another kind than arrays, numbers, text, tuples and mappings.

    >>> unpacked(packed({4: (np.arange(2), float("inf"))}))
    {4: (array([0, 1]), inf)}
    """
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = zlib.compress(np.ascontiguousarray(value).tobytes())
        kind = {"dtype": value.dtype.str, "shape": list(value.shape)}
        return {"array": base64.b64encode(data).decode(), **kind}
    if isinstance(value, np.generic):
        return packed(value.item())
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, (tuple, list)):
        return [packed(one) for one in value]
    if isinstance(value, dict):
        return {"items": [[packed(key), packed(one)] for key, one in value.items()]}
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"no field of a result that JSON can hold: {type(value).__name__}")


def unpacked(value: Any) -> Any:
    """What :func:`packed` was given; sequences are tuples.

    Raises:
        ValueError, TypeError, KeyError, zlib.error: something else.
    """
    if isinstance(value, list):
        return tuple(unpacked(one) for one in value)
    if not isinstance(value, dict):
        return value
    if "float" in value:
        return float(value["float"])
    if "items" in value:
        return {unpacked(key): unpacked(one) for key, one in value["items"]}
    data = zlib.decompress(base64.b64decode(value["array"], validate=True))
    return np.frombuffer(data, np.dtype(value["dtype"])).reshape(value["shape"]).copy()
