"""Two runs on one page: what changed, by how much, and whether that is beyond chance."""

from __future__ import annotations

import base64
import math
from typing import Any

from ..version import __version__
from .comparison import Change, Comparison, Interval
from .stored import StoredRun

# Of the provenance, what the page says of both runs; what differs is said above it as well.
_PROVENANCE = (
    *("date", "command", "version", "model", "weights", "epoch", "step", "device"),
    *("data", "images", "samples", "selection", "resampling", "classes", "chance"),
    *("mean", "std", "normalization"),
)


def page(found: Comparison) -> str:
    """The HTML page: what cannot be trusted, what changed, each run's words, the whole table."""
    from jinja2 import Environment, PackageLoader

    a, b = found.a, found.b
    common = [name for name in a.results if name in b.results]
    template = Environment(
        loader=PackageLoader("hfc_probe.cli", "."), autoescape=True, keep_trailing_newline=True
    ).get_template("page.html.j2")
    return template.render(
        a=a,
        b=b,
        cautions=list(found.cautions),
        decisive=[str(one) for one in found.differing if one.decisive],
        rest=[str(one) for one in found.differing if not one.decisive],
        words=[change.sentence(a.name, b.name) for change in found.clear]
        or ["No clear difference: no 95 % interval of a difference excludes 0."],
        count=found.count(),
        notes=" ".join(found.notes),
        measurements=[_measurement(name, a, b) for name in common],
        only=", ".join([*sorted(set(a.results) ^ set(b.results)), *found.alone]),
        rows=[(change, _cells(change)) for change in found.changes],
        origins=_origins(a, b, common[0]),
        version=__version__,
    )


def _origins(a: StoredRun, b: StoredRun, name: str) -> list[tuple[str, ...]]:
    """Where both runs' numbers come from, as the measurement of that name says."""
    one, two = (run.results[name].get("provenance", {}) for run in (a, b))
    values = [(key, one.get(key), two.get(key)) for key in _PROVENANCE]
    return [
        (key, *("" if value is None else str(value) for value in pair))
        for key, *pair in values
        if pair != [None, None]
    ]


def _measurement(name: str, a: StoredRun, b: StoredRun) -> dict[str, Any]:
    sides = [
        {
            "letter": letter,
            "name": run.name,
            "summary": run.results[name].get("summary", ""),
            "picture": base64.b64encode(run.pictures.get(name, b"")).decode(),
        }
        for letter, run in (("A", a), ("B", b))
    ]
    return {"name": name, "title": name.replace("_", " ").capitalize(), "sides": sides}


def _cells(change: Change) -> tuple[str, ...]:
    def number(value: float, how: str, spread: float | None = None) -> str:
        shown = format(value, how) if math.isfinite(value) else "–"
        return shown if spread is None else f"{shown} ± {spread:.2g}"

    def bounds(interval: Interval | None, how: str = ".3f") -> str:
        return "" if interval is None else f"[{interval[0]:{how}}, {interval[1]:{how}}]"

    return (
        number(change.before, ".4g", change.spread[0]),
        bounds(change.before_interval),
        number(change.after, ".4g", change.spread[1]),
        bounds(change.after_interval),
        "" if change.refused else number(change.after - change.before, "+.4g"),
        "" if change.refused else bounds(change.difference, "+.3f"),
        change.judged + (", paired" if change.paired and not change.refused else ""),
    )
