"""Two runs on one page: what changed, by how much, and whether that is beyond chance."""

from __future__ import annotations

import base64
import math
from typing import Any

from ..version import __version__
from .comparison import Change, Comparison, Interval
from .pairs import drawn
from .stored import StoredRun

# Of the provenance, what the page says of both runs; what differs is said above it as well.
_PROVENANCE = (
    *("date", "command", "version", "model", "weights", "epoch", "step", "device"),
    *("data", "images", "samples", "selection", "resampling", "classes", "chance"),
    *("mean", "std", "normalization"),
)
_HEAD = {"model": "", "data": "on ", "epoch": "epoch "}


def page(found: Comparison) -> str:
    """The HTML page: what cannot be trusted, what changed, each run's words, the whole table."""
    from jinja2 import Environment, PackageLoader

    a, b = found.a, found.b
    common = [name for name in a.results if name in b.results]
    common.sort(key=lambda name: -found.importance(name))
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
        measurements=[_measurement(name, found) for name in common],
        only=", ".join([*sorted(set(a.results) ^ set(b.results)), *found.alone]),
        rows=[
            (change, _cells(change))
            for name in common
            for change in found.changes
            if change.tag in a.results[name]["scalars"]
        ],
        heads=[(letter, run.name, _head(run, common)) for letter, run in (("A", a), ("B", b))],
        origins=_origins(a, b, common),
        version=__version__,
    )


def _head(run: StoredRun, names: list[str]) -> str:
    """What a run measured, in a line: model, data, place in training, date."""
    found = [run.results[name].get("provenance", {}) for name in names]

    def said(key: str) -> list[str]:
        return list(dict.fromkeys(str(one[key]) for one in found if one.get(key) is not None))

    parts = [f"{word}{', '.join(said(key))}" for key, word in _HEAD.items() if said(key)]
    return ", ".join([*parts, *(date[:16].replace("T", " ") for date in said("date")[-1:])])


def _origins(a: StoredRun, b: StoredRun, names: list[str]) -> list[tuple[str, ...]]:
    """Where both runs' numbers come from; a row for each measurement if they do not agree."""
    rows: list[tuple[str, ...]] = []
    for key in _PROVENANCE:
        pairs: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            values = [run.results[name].get("provenance", {}).get(key) for run in (a, b)]
            if values != [None, None]:
                pair = tuple("" if value is None else str(value) for value in values)
                pairs.setdefault(pair, []).append(name)
        alone = len(pairs) == 1
        rows += [
            (key if alone else f"{key} ({', '.join(of)})", *pair) for pair, of in pairs.items()
        ]
    return rows


def _measurement(name: str, found: Comparison) -> dict[str, Any]:
    """A section of the page: both runs' words and pictures, and the difference of their maps."""
    a, b = found.a, found.b
    pictures = [run.pictures.get(name, b"") for run in (a, b)] + [b""]
    if name in a.files and name in b.files:
        pictures = list(
            drawn(a.files[name], b.files[name], difference=found.alike(name)) or pictures
        )
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    sides = [
        {
            "letter": letter,
            "name": run.name,
            "summary": run.results[name].get("summary", ""),
            "picture": picture,
        }
        for letter, run, picture in zip("AB", (a, b), encoded, strict=False)
    ]
    title = name.replace("_", " ").capitalize()
    return {"name": name, "title": title, "sides": sides, "difference": encoded[2]}


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
