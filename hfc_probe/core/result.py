"""What every result has in common: numbers, words, a figure, JSON."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..ground.errors import InputError
from ..ground.files import plain, write_atomically
from ..version import __version__
from . import travel
from .drawing import LFC, new_figure, styled
from .intervals import percent, wilson
from .labels import Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase


Arrays = dict[str, NDArray[Any]]
_COMMON = ("settings", "samples", "provenance")


def _computed_once(arrays: Callable[[Any], Arrays]) -> Callable[[Any], Arrays]:
    """A method ``arrays`` that each result computes once: results do not change."""

    @wraps(arrays)
    def kept(self: Any) -> Arrays:
        found = self.__dict__.setdefault("_arrays", {})
        if kept not in found:  # by method: a subclass may call that of its parent
            found[kept] = arrays(self)
        return dict(found[kept])

    return kept


@dataclass(frozen=True, eq=False)
class Result(ABC):
    """What a measurement found: numbers, arrays, a figure, words.

    A subclass needs :meth:`scalars` alone; the arrays, table, figure and sentence are made of
    them unless it has better ones.

    Attributes:
        settings: the measurement's settings, by name.
        samples: number of images looked at.
        provenance: what was measured, on what, how and when, as plain values.
    """

    inches: ClassVar[tuple[float, float] | None] = None  # of the figure; by its bars

    settings: Mapping[str, Any]
    samples: int
    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__repr__" not in vars(cls):  # a dataclass would print its arrays
            cls.__repr__ = Result.__repr__  # type: ignore[method-assign]
        if "arrays" in vars(cls):
            cls.arrays = _computed_once(cls.arrays)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

    @property
    def caveats(self) -> tuple[str, ...]:
        """What cannot be trusted about these numbers; said before anything else is."""
        return tuple(self.provenance.get("caveats", ()))

    @abstractmethod
    def scalars(self) -> dict[str, float]:
        """TensorBoard tags and their values."""

    @_computed_once
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name; the class's docstring gives shapes and units.

        Computed once for each result, in subclasses too; the arrays are shared, not copied.
        """
        return {tag: np.asarray(value) for tag, value in self.scalars().items()}

    def figure(self, ax: Axes | FigureBase | None = None) -> Figure:
        """A matplotlib figure, not attached to pyplot.

        Args:
            ax: draw into these axes of the caller's, or into a figure or subfigure if the result
                has several panels.

        Returns:
            The figure drawn into.

        Raises:
            InputError: axes for a result of several panels, or something else.
        """
        with styled():
            where: Any = new_figure(*self.figure_inches()) if ax is None else ax
            several = type(self).draw_panels is not Result.draw_panels
            if hasattr(where, "subfigures"):
                self.draw_panels(where)
            elif not several and hasattr(where, "plot"):
                self.draw(where)
            else:
                what = f" ({self.name} has several panels)" if several else " or axes"
                raise InputError(
                    f"ax: expected one figure or subfigure{what}, got {type(ax).__name__}; pass one"
                )
        figure: Figure = where.figure.figure  # of axes in a subfigure too
        return figure

    def figure_inches(self) -> tuple[float, float]:
        """Width and height of the figure."""
        return self.inches or (7, 1.4 + 0.4 * max(len(self.scalars()), 1))

    def draw_panels(self, figure: Any) -> None:
        """Fill a figure or subfigure; one panel unless a subclass has more."""
        self.draw(figure.subplots())

    def draw(self, axes: Axes) -> None:
        """Draw the one panel: the numbers as bars, with those 95 % intervals that there are."""
        scalars, intervals = self.scalars(), self.intervals()
        for k, (tag, value) in enumerate(scalars.items()):
            axes.barh(k, value, color=LFC)
            low, high = intervals.get(tag, (value, value))
            axes.plot([low, high], [k, k], color="black", linewidth=1.5)
        axes.set_yticks(range(len(scalars)), list(scalars))
        axes.invert_yaxis()
        axes.set_xlabel("value (95 % interval)" if intervals else "value")
        axes.set_title(self._title())

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column heads and rows of the table that ``print`` shows."""
        rows = [[tag, f"{value:.4g}", ""] for tag, value in self.scalars().items()]
        for row in rows:
            if row[0] in self.intervals():
                row[2] = "[{:.4g}, {:.4g}]".format(*self.intervals()[row[0]])
        if not self.intervals():
            return ["number", "value"], [row[:2] for row in rows]
        return ["number", "value", "95 % interval"], rows

    def sentence(self) -> str:
        """What the numbers say: :meth:`verdict`, unless the model is not above chance."""
        return not_above_chance(self) or self.verdict()

    def original(self) -> tuple[int, int, int] | None:
        """How the model does on the original images: correct, of how many, within the top k.

        A model that is not above chance there is not judged. None: not measured, or nothing
        that a guess could reach.
        """
        return None

    def per_image(self) -> dict[str, NDArray[np.bool_]]:
        """Outcome ``(N,)`` on every image, by tag, for those proportions that have one."""
        return {}

    def verdict(self) -> str:
        """What the numbers say of a model that works, in one sentence with its figures."""
        said = ", ".join(f"{tag} is {value:.4g}" for tag, value in self.scalars().items())
        return f"On {self.samples} images {said}."

    def labels(self) -> dict[str, Label]:
        """What the scalars are, by tag; those without a label are shown by their tag."""
        return {}

    def histograms(self) -> dict[str, NDArray[Any]]:
        """TensorBoard tags and the values whose distribution they show."""
        return {}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of those of :meth:`scalars` that have one, by tag."""
        return {}

    def images(self) -> dict[str, Any]:
        """TensorBoard tags and pictures: uint8 arrays ``(H, W)`` or ``(H, W, 3)``, or figures.

        Arrays are made of the numbers in a few milliseconds; a figure takes 100 times as long.
        """
        return {}

    def axes(self) -> dict[str, dict[str, Any]]:
        """For arrays that belong in the event file: their axes and units, by array name."""
        return {}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the event file keeps of :meth:`arrays`: those that :meth:`axes` describes."""
        return {name: self.arrays()[name] for name in self.axes()}

    @property
    def group(self) -> str:
        """First part of its tensors' tags in the event file; the measurement's name."""
        return self.name

    @property
    def name(self) -> str:
        """The measurement's name, as in :attr:`Measurement.name`."""
        return self.known_as()

    @classmethod
    def known_as(cls) -> str:
        """The name that results of this class have."""
        # Without the suffix first, which an abbreviation (SVDResult) would swallow.
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__.removesuffix("Result")).lower()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, ready for JSON; NaN becomes None.

        ``per_image`` holds :meth:`per_image` as base64 of ``np.packbits``, and ``fields`` what
        :func:`hfc_probe.load` makes the result of.
        """
        saved = (one.name for one in fields(self) if one.metadata.get("saved", True))
        own = [name for name in saved if name not in _COMMON]
        with suppress(TypeError):  # a field that JSON cannot hold
            packed = {"fields": travel.packed({name: getattr(self, name) for name in own})}
            return self._plain() | packed
        return self._plain()

    def _plain(self) -> dict[str, Any]:
        return {
            "hfc_probe": __version__,
            "measurement": self.name,
            "settings": plain(dict(self.settings)),
            "samples": self.samples,
            "provenance": plain(dict(self.provenance)),
            "summary": self.sentence(),
            "scalars": plain(self.scalars()),
            "intervals": plain(self.intervals()),
            "labels": {tag: plain(label.plain()) for tag, label in self.labels().items()},
            "arrays": plain(self.arrays()),
            "per_image": {
                tag: base64.b64encode(np.packbits(outcome).tobytes()).decode()
                for tag, outcome in self.per_image().items()
            },
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_dict` as JSON; a file is either whole or not there.

        Raises:
            InputError: a path that cannot be written.
        """
        text = json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)
        return write_atomically(Path(path), text.encode())

    def to_frame(self) -> Any:
        """The scalars as a pandas data frame, with intervals and labels; a row for each."""
        return travel.frame(self)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The same as CSV; written to a file if a path is given."""
        return travel.to_csv(self, path)

    def to_latex(self) -> str:
        """:meth:`table` for LaTeX, with the rules of booktabs."""
        return travel.to_latex(self)

    def log(self, writer: Any, step: int, *, figure: bool = False) -> None:
        """Write into TensorBoard or another logger; see :func:`hfc_probe.core.event_file.log`."""
        from .event_file import log

        log(self, writer, step, figure=figure)

    def __repr__(self) -> str:
        images = f", {self.samples} images" if self.samples else ""
        return f"<{type(self).__name__}{images}: {self.sentence()}>"

    def __str__(self) -> str:
        from tabulate import tabulate

        heads, rows = self.table()
        align = ["left"] + ["right"] * (len(heads) - 1)
        body = tabulate(rows, heads, tablefmt="simple", colalign=align, disable_numparse=True)
        parts = [self._title(), *map(caution, self.caveats), body, self.sentence()]
        return "\n".join([*parts, *filter(None, [origin(self)])])

    def _repr_html_(self) -> str:
        import html
        import io

        from tabulate import tabulate

        heads, rows = self.table()
        body = tabulate(rows, heads, tablefmt="html", disable_numparse=True)
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format="png", dpi=100)
        picture = base64.b64encode(buffer.getvalue()).decode()
        cautions = "".join(f"<p><b>{html.escape(caution(one))}</b></p>" for one in self.caveats)
        return (
            f"<h4>{html.escape(self._title())}</h4>{cautions}{body}"
            f"<p>{html.escape(self.sentence())}</p><p>{html.escape(origin(self))}</p>"
            f'<img alt="{html.escape(self.name)}" src="data:image/png;base64,{picture}">'
        )

    def _title(self) -> str:
        return self.name.replace("_", " ").capitalize()


@dataclass(frozen=True, eq=False)
class CellResult(Result):
    """A result whose scalars are single cells of its arrays, with their bounds in two others."""

    @abstractmethod
    def cells(self) -> Iterable[tuple[str, str, tuple[int, ...]]]:
        """Tag, array and index of every scalar."""

    def scalars(self) -> dict[str, float]:
        """Those that are known: a share of no images at all is left out."""
        arrays = self.arrays()
        out = {tag: float(arrays[name][at]) for tag, name, at in self.cells()}
        return {tag: value for tag, value in out.items() if math.isfinite(value)}

    def intervals(self) -> dict[str, tuple[float, float]]:
        arrays, known = self.arrays(), self.scalars()
        return {
            tag: (float(arrays[f"{name}_lower"][at]), float(arrays[f"{name}_upper"][at]))
            for tag, name, at in self.cells()
            if tag in known
        }


def not_above_chance(result: Result) -> str | None:
    """What is said in place of a verdict if the model does no better than a guess.

    None if the interval of its accuracy on the original images lies above the larger of k/K and
    the share of the k largest classes, or if there is no such accuracy.
    """
    original, chance = result.original(), result.provenance.get("chance")
    if original is None or chance is None:
        return None
    correct, count, topk = original
    low, high = (float(bound) for bound in wilson(correct, count))
    if low > chance:
        return None
    accuracy = correct / count if count else float("nan")
    of = "the share of the largest class" if topk == 1 else f"a guess of {topk} classes"
    if chance == 1:
        of = "all images are of one class" if topk == 1 else f"any {topk} classes hold the target"
    elif result.provenance.get("classes") and np.isclose(
        chance, topk / result.provenance["classes"]
    ):
        of = f"{topk} of {result.provenance['classes']} classes"
    more = "measure more images, or " if accuracy > chance and chance < 1 else ""
    return (
        f"Accuracy on the original images is not above chance ({percent(chance)}, {of}): "
        f"{percent(accuracy, low, high)} of {count} images; {more}check weights, labels and "
        "normalisation."
    )


def caution(caveat: str) -> str:
    """A caveat as a line of its own."""
    return f"Caution: {caveat}"


def origin(result: Result) -> str:
    """Where a result comes from, in one line; nothing if it does not know."""
    of = result.provenance
    if not of:
        return ""
    parts = [f"{of.get('model')} (weights {of.get('weights')})"]
    if of.get("images"):
        choice = {"all": "", "random": ", a random choice", "first": ", the first ones"}
        named = f" of {of['data']}" if of.get("data") else ""
        chosen = choice.get(str(of.get("selection")), "")
        parts.append(f"{of.get('samples')} images{named} (hash {of['images']}{chosen})")
    if of.get("step") is not None:
        parts.append(f"step {of['step']}, epoch {of['epoch']}")
    parts.append(f"hfc_probe {of.get('version')}, {of.get('date')}")
    return "; ".join(parts) + "."


def manner(settings: Mapping[str, Any], background: str = "hfc_background") -> str:
    """How components were made and predictions counted, as far as it is not the usual way.

    >>> manner({"hfc_background": "zero", "closed": False, "topk": (5,)})
    'HFC on zero background, LFC of d < r, right within the top 5'
    """
    parts = [f"HFC on {settings[background]} background"]
    if settings.get("rescale") is not None:
        parts.append(f"rescaled by {settings['rescale']}")
    if settings.get("closed") is False:
        parts.append("LFC of d < r")
    topk = settings.get("topk", (1,))
    if topk[0] != 1:
        parts.append(f"right within the top {topk[0]}")
    return ", ".join(parts)
