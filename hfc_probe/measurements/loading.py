"""Saved results brought back, with their figure and table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.drawing import CLEAN, HFC, LFC
from ..core.labels import Label
from ..core.result import Arrays, Result
from ..core.travel import unpacked
from ..ground import checks
from ..ground.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["StoredResult", "load"]


def load(path: str | os.PathLike[str]) -> Result:
    """The result that :meth:`Result.save` wrote, with figure, table and sentence.

    It is of its own class again, to the last bit. A file of an older version, or of a measurement
    whose module is not imported, gives a :class:`StoredResult`.

    Raises:
        InputError: no such file, or one that holds no result.
    """
    file = Path(checks.path("path", path))
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"load: expected a file that Result.save wrote, got {file} ({error.strerror})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"load: expected the JSON of a result, got a damaged file, {file}; measure again"
        ) from error
    if not isinstance(content, dict) or not {"measurement", "scalars"} <= content.keys():
        raise InputError(
            f"load: expected the JSON of a result, as Result.save writes it, got {file} without "
            "measurement and scalars"
        )
    try:
        common = {
            "settings": {key: _tuples(value) for key, value in content["settings"].items()},
            "samples": content["samples"],
            "provenance": content.get("provenance", {}),
        }
        for kind in _kinds() if "fields" in content else ():
            if kind.known_as() == content["measurement"]:
                return kind(**common, **unpacked(content["fields"]))
        return StoredResult(**common, content=content)
    except Exception as error:  # whatever a file of a stranger's makes of it
        raise InputError(
            f"load: expected the JSON of a result, got {file} with parts that do not fit "
            f"({type(error).__name__}: {error}); measure again"
        ) from error


def _kinds(kind: Any = Result) -> Iterator[type[Result]]:
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True, eq=False)
class StoredResult(Result):
    """What a file says of a result whose class is not at hand.

    Attributes:
        content: the file's.
    """

    content: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.content["measurement"])

    def scalars(self) -> dict[str, float]:
        return {tag: _float(value) for tag, value in self.content["scalars"].items()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        found = self.content.get("intervals", {})
        return {tag: (_float(low), _float(high)) for tag, (low, high) in found.items()}

    def labels(self) -> dict[str, Label]:
        return {tag: Label.read(one) for tag, one in self.content.get("labels", {}).items()}

    def arrays(self) -> Arrays:
        return {
            name: np.array(value, float) if _is_numeric(value) else np.asarray(value)
            for name, value in self.content.get("arrays", {}).items()
        }

    def sentence(self) -> str:
        return str(self.content.get("summary", ""))

    def draw(self, axes: Axes) -> None:
        """LFC and HFC against the radius if the labels say so; the numbers as bars otherwise."""
        scalars, intervals = self.scalars(), self.intervals()
        quantity = next((one.quantity for one in self.labels().values() if one.part), "")
        for part, colour in (("lfc", LFC), ("hfc", HFC)):
            of = {
                one.radius: tag
                for tag, one in self.labels().items()
                if (one.part, one.quantity) == (part, quantity) and one.radius is not None
            }
            if not of:
                return super().draw(axes)
            values = [scalars[tag] for tag in of.values()]
            bounds: NDArray[np.float64] = np.array(
                [intervals.get(tag, (np.nan, np.nan)) for tag in of.values()]
            )
            radii = list(of)
            axes.fill_between(radii, bounds[:, 0], bounds[:, 1], color=colour, alpha=0.18, lw=0)
            axes.plot(radii, values, marker="o", color=colour, label=part.upper())
        for tag, one in self.labels().items():
            if (one.part, one.quantity) == ("original", quantity):
                axes.axhline(scalars[tag], color=CLEAN, lw=1.2, ls=":", label="original")
        axes.set_xlabel("radius r")
        axes.set_ylabel(quantity)
        axes.set_title(self._title())
        axes.legend(frameon=False, fontsize=9)
        return None


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _is_numeric(value: Any) -> bool:
    """Whether a nested list holds numbers, or None for what is not finite."""
    while isinstance(value, list) and value:
        value = value[0]
    return value is None or isinstance(value, (int, float)) or value == []
