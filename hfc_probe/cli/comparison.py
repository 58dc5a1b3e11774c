"""Two runs' results side by side: what differs, and what may be said of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..core.intervals import paired_difference, percent, square_and_add
from ..core.labels import Label
from ..ground.errors import InputError
from ..ground.files import plain
from .stored import StoredRun, all_settings

Interval = tuple[float, float]
Stored = Mapping[str, Any]  # a result as read_run gives it


@dataclass(frozen=True)
class Change:
    """One number in both runs, with 95 % intervals as far as they are known.

    Attributes:
        label: the number in words; its tag if the results do not say.
        difference: interval of ``after - before``.
        paired: whether it was made image by image, of the same images in both runs.
        refused: why nothing is said of the difference; empty if something may be.
        spread: standard deviation over seeds in either; None for one run.
    """

    tag: str
    label: str
    before: float
    after: float
    before_interval: Interval | None = None
    after_interval: Interval | None = None
    difference: Interval | None = None
    paired: bool = False
    refused: str = ""
    spread: tuple[float | None, float | None] = (None, None)

    @property
    def differs(self) -> bool:
        """Whether both are the same quantity, and the interval of the difference excludes 0."""
        return self.judged in ("more", "less")

    @property
    def judged(self) -> str:
        """What may be said of the difference."""
        if self.refused:
            return self.refused
        if self.difference is None:
            return "no interval"
        if self.difference[0] > 0:
            return "more"
        return "less" if self.difference[1] < 0 else "no clear difference"

    @property
    def importance(self) -> float:
        """The least difference that its interval allows, as a share of the larger number."""
        if not self.differs or self.difference is None:
            return 0.0
        least = min(abs(bound) for bound in self.difference)
        return least / max(abs(self.before), abs(self.after), 1e-12)

    def sentence(self, a: str, b: str) -> str:
        """The change in words; only for numbers that differ."""
        assert self.difference is not None
        name, (low, high) = self.label, self.difference
        return (
            f"{name[:1].upper()}{name[1:]} is {'higher' if self.judged == 'more' else 'lower'} in "
            f"{b} ({self.after:.3f}) than in {a} ({self.before:.3f}): "
            f"{self.after - self.before:+.3f} [{low:+.3f}, {high:+.3f}]."
        )


@dataclass(frozen=True)
class Differing:
    """One thing in which the same measurement of two runs was not done alike.

    Attributes:
        decisive: whether it makes any number another quantity.
    """

    measurement: str
    what: str
    first: Any
    second: Any
    decisive: bool

    def __str__(self) -> str:
        return f"{self.measurement}: {self.what} {_said(self.first)} against {_said(self.second)}"


@dataclass(frozen=True)
class Comparison:
    """Two runs, and what may be said of the difference.

    Attributes:
        changes: the numbers that both have, in their order.
        differing: what was not done alike.
        cautions: what cannot be trusted, to be said before anything else.
        notes: what else the reader must know.
        alone: numbers that only one of the two has, of measurements that both have.
    """

    a: StoredRun
    b: StoredRun
    changes: tuple[Change, ...]
    differing: tuple[Differing, ...]
    cautions: tuple[str, ...]
    notes: tuple[str, ...]
    alone: tuple[str, ...]

    @property
    def clear(self) -> list[Change]:
        """The changes whose interval excludes 0, the most important first."""
        clear = [change for change in self.changes if change.differs]
        return sorted(clear, key=lambda change: -change.importance)

    def importance(self, measurement: str) -> float:
        """That of its most important change."""
        tags = self.a.results[measurement]["scalars"]
        return max((one.importance for one in self.changes if one.tag in tags), default=0.0)

    def alike(self, measurement: str) -> bool:
        """Whether the two runs' numbers of a measurement are the same quantity."""
        names = [one.measurement.split(", ") for one in self.differing if one.decisive]
        return not any(measurement in some for some in names)

    @property
    def refused(self) -> list[Change]:
        """The changes that are not judged, being no differences between the models."""
        return [change for change in self.changes if change.refused]

    def plain(self) -> dict[str, Any]:
        """Everything as values that JSON can hold; a number that is none is None."""
        return {
            "runs": [self.a.name, self.b.name],
            "cautions": list(self.cautions),
            "notes": list(self.notes),
            "differing": [str(one) for one in self.differing],
            "changes": [plain(asdict(one) | {"judged": one.judged}) for one in self.changes],
        }

    def count(self) -> str:
        """How many numbers differ, and how many would be if nothing differed."""
        judged = sum(not c.refused and c.difference is not None for c in self.changes)
        chance = 0.05 * judged
        expected = "less than one" if chance < 0.95 else f"about {chance:.0f}"
        return (
            f"{len(self.clear)} of {judged} judged differences are clear (their 95 % interval "
            f"excludes 0); between equal models {expected} would be, by chance."
        )


# What another value of costs precision or adds numbers, but does not change what a number means.
_HARMLESS = frozenset(
    [
        "samples looked at",
        "samples",
        "seed",
        "radii",
        "rhos",
        "epsilons",
        "ranks",
        "corruptions",
        "forwards",
        "precision",
        "seconds",
        "autocast",
        "channels_last",
        "perturbation_radii",
    ]
)
# Of the provenance: what makes a number another quantity, and what is only said.
_DECISIVE = ("data", "resampling", "classes")
_SAID = ("epoch", "step", "model", "selection", "normalization", "mean", "std", "version")


def compare(a: StoredRun, b: StoredRun) -> Comparison:
    """What may be said of the numbers that both runs have.

    Raises:
        InputError: no measurement in common.
    """
    common = [name for name in a.results if name in b.results]
    if not common:
        raise InputError(
            f"report: expected a measurement that both runs have, got {', '.join(a.results)} and "
            f"{', '.join(b.results)}"
        )
    changes: list[Change] = []
    differing: list[Differing] = []
    alone: list[str] = []
    guessing = {letter: _guessing(run) for letter, run in (("A", a), ("B", b))}
    for name in common:
        first, second = a.results[name], b.results[name]
        own = list(_differing(name, first, second))
        for one in own:  # the same of several measurements is said once
            said = [replace(old, measurement=one.measurement) == one for old in differing]
            if any(said):
                k = said.index(True)
                joined = f"{differing[k].measurement}, {name}"
                differing[k] = replace(one, measurement=joined)
            else:
                differing.append(one)
        for tag in first["scalars"]:
            if tag in second["scalars"]:
                changes.append(_change(tag, first, second, own, any(guessing.values())))
        alone += sorted(first["scalars"].keys() ^ second["scalars"].keys())
    cautions = [
        f"{letter}: {text}"
        for letter, run in (("A", a), ("B", b))
        for text in [*_caveats(run), *filter(None, [guessing[letter]])]
    ]
    one_seed = [letter for letter, run in (("A", a), ("B", b)) if not _of_seeds(run)]
    if len(one_seed) == 1:
        cautions.append(
            f"{one_seed[0]}: one seed, which has no spread: its intervals are over images alone, "
            "so a difference may be that of its seed"
        )
    return Comparison(
        a, b, tuple(changes), tuple(differing), tuple(cautions), tuple(_notes(a, b)), tuple(alone)
    )


def _change(
    tag: str, first: Stored, second: Stored, differing: list[Differing], guessing: bool
) -> Change:
    label = _label(tag, first, second)
    before, after = (_float(result["scalars"][tag]) for result in (first, second))
    one, two = (_interval(result, tag) for result in (first, second))
    bits = [result.get("per_image", {}).get(tag) for result in (first, second)]
    refused = ""
    if not (math.isfinite(before) and math.isfinite(after)):
        refused = "no number"
    elif any(d.decisive and _matters(label, d) for d in differing):
        refused = "measured differently"
    elif guessing and not _of_originals(label):
        refused = "not above chance"
    difference, paired = None, False
    if _same_images(first, second) and bits[0] is not None and bits[1] is not None:
        low, high = paired_difference(bits[1], bits[0])
        difference, paired = (float(low), float(high)), True
    elif one is not None and two is not None:
        low, high = square_and_add(after, *two, before, *one)
        difference = (float(low), float(high))
    words = tag if label is None else label.text
    spread = (first.get("spread", {}).get(tag), second.get("spread", {}).get(tag))
    return Change(tag, words, before, after, one, two, difference, paired, refused, spread)


def _differing(name: str, first: Stored, second: Stored) -> Iterator[Differing]:
    """In what two results of one measurement were not made alike."""
    one, two = (
        {**all_settings(result.get("settings", {})), "samples looked at": result.get("samples")}
        for result in (first, second)
    )
    for key in dict.fromkeys((*one, *two)):
        if one.get(key) != two.get(key):
            decisive = key not in _HARMLESS or key == "radii"
            yield Differing(name, key, one.get(key), two.get(key), decisive)
    one, two = (result.get("provenance", {}) for result in (first, second))
    if not one or not two:
        return  # said in the notes
    same_model = one.get("weights") is not None and one.get("weights") == two.get("weights")
    for key in (*_DECISIVE, *_SAID):
        if one.get(key) == two.get(key) or (key == "data" and _same_images(first, second)):
            continue
        # Models may want their own statistics; one model can want only one.
        decisive = key in _DECISIVE or (key in ("mean", "std") and same_model)
        yield Differing(name, key, one.get(key), two.get(key), decisive)


def _label(tag: str, *results: Stored) -> Label | None:
    """What the number of a tag is, as those results say that have labels."""
    found: list[Label] = [r["labels"][tag] for r in results if tag in r.get("labels", {})]
    if not found:
        return None
    listed = [label.settings for label in found if label.settings is not None]
    return replace(found[0], settings=sum(listed, ()) if listed else None)


def _matters(label: Label | None, differing: Differing) -> bool:
    """Whether that makes this very number another quantity."""
    key = differing.what
    if key in (*_DECISIVE, *_SAID) or label is None:
        return True
    if key == "topk" and _first(differing.first) == _first(differing.second):
        return False  # further k have tags of their own
    return key not in _HARMLESS if label.settings is None else key in label.settings


def _of_originals(label: Label | None) -> bool:
    """Whether a number is the accuracy on the original images."""
    return label is not None and label.part == "original" and label.quantity.endswith("accuracy")


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _same_images(first: Stored, second: Stored) -> bool:
    images = [result.get("provenance", {}).get("images") for result in (first, second)]
    return images[0] is not None and images[0] == images[1]


def _guessing(run: StoredRun) -> str:
    """Said of a run whose accuracy on the original images may be a guess's; else nothing."""
    for result in run.results.values():
        chance = result.get("provenance", {}).get("chance")
        if isinstance(chance, bool) or not isinstance(chance, (int, float)):
            continue
        for tag in result["scalars"]:
            if not _of_originals(_label(tag, result)):
                continue
            bounds = _interval(result, tag)
            if bounds is not None and bounds[0] <= chance:
                return (
                    f"the accuracy on original images, {percent(result['scalars'][tag], *bounds)}, "
                    f"is not above chance ({percent(chance)}), so nothing is said about "
                    "frequencies; check weights, labels and normalisation."
                )
    return ""


def _caveats(run: StoredRun) -> list[str]:
    found = [result.get("provenance", {}).get("caveats") for result in run.results.values()]
    listed = [one for caveats in found if isinstance(caveats, list) for one in caveats]
    return list(dict.fromkeys(str(one) for one in listed))


def _of_seeds(run: StoredRun) -> bool:
    return any("spread" in result for result in run.results.values())


def _notes(a: StoredRun, b: StoredRun) -> Iterator[str]:
    common = [(a.results[name], b.results[name]) for name in a.results if name in b.results]
    silent = [
        run.name for k, run in enumerate((a, b)) if not all(p[k].get("provenance") for p in common)
    ]
    if silent:
        yield (
            f"No provenance in {' and '.join(silent)} (written by an earlier version): judged as "
            "if images, data and normalisation were alike."
        )
    weights = [[pair[k].get("provenance", {}).get("weights") for pair in common] for k in (0, 1)]
    if weights[0] == weights[1] and all(weights[0]):
        yield "Both runs measured the same weights."
    if not any(_same_images(*pair) for pair in common):
        return
    yield "Both runs saw the same images: paired differences are made image by image."


def _interval(result: Stored, tag: str) -> Interval | None:
    bounds = result.get("intervals", {}).get(tag)
    if not bounds or None in bounds:
        return None
    return float(bounds[0]), float(bounds[1])


def _float(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _said(value: Any) -> str:
    return "none" if value is None else str(value)
