"""Two runs side by side: what changed, by how much, and whether it can be told."""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .version import __version__


@dataclass(frozen=True)
class Run:
    """Results that ``hfc-probe audit`` or ``demo`` wrote into one directory.

    Attributes:
        name: the directory's.
        results: by file stem, as :meth:`hfc_probe.Result.to_dict` made them.
        pictures: PNG files by stem.
    """

    name: str
    results: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Change:
    """One number in both runs, with its 95 % intervals where it has them.

    Attributes:
        comparable: whether both runs measured it in the same way; what is not the same
            quantity, HFC on another background, say, is shown and not judged.
    """

    tag: str
    before: float
    after: float
    before_interval: tuple[float, float] | None = None
    after_interval: tuple[float, float] | None = None
    comparable: bool = True

    @property
    def told_apart(self) -> bool:
        """Whether both have intervals, they do not overlap, and speak of the same quantity."""
        a, b = self.before_interval, self.after_interval
        return self.comparable and a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])

    @property
    def judged(self) -> str:
        """What may be said of the difference."""
        if not self.comparable:
            return "measured differently"
        if self.before_interval is None or self.after_interval is None:
            return "no interval"
        if not self.told_apart:
            return "not told apart"
        return "more" if self.after > self.before else "less"

    def sentence(self, a: str, b: str) -> str:
        """The change in words; only for numbers that are told apart."""
        name = in_words(self.tag)
        return (
            f"{name[:1].upper()}{name[1:]} is {'higher' if self.judged == 'more' else 'lower'} in "
            f"{b} ({self.after:.3f}) than in {a} ({self.before:.3f})."
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
_OF_HFC_ALONE = "hfc_background"

_NAMED = (
    (r"hfc_accuracy/original", "accuracy on the original images"),
    (r"hfc_lfc/r0*(\d.*)", r"accuracy on LFC(\1)"),
    (r"hfc_hfc/r0*(\d.*)", r"accuracy on HFC(\1)"),
    (r"hfc_attack/clean_rho(.*)", r"clean accuracy with kernels smoothed by ρ = \1"),
    (r"hfc_attack/clean", "clean accuracy beside the attacks"),
    (r"hfc_attack/(fgsm|pgd)_e([\d.]+)_rho(.*)", r"\1 accuracy at ε = \2 and ρ = \3"),
    (r"hfc_attack/(fgsm|pgd)_e([\d.]+)", r"\1 accuracy at ε = \2"),
    (
        r"hfc_examples/(high|low)_only_r0*(\d.*)",
        r"the share of images that the \1 frequencies alone keep right at r = \2",
    ),
    (r"hfc_phase/phase_kept_own", "accuracy with another image's amplitude"),
    (r"hfc_phase/amplitude_kept_own", "accuracy with another image's phase"),
    (r"hfc_calibration/ece_original", "the calibration error on the original images"),
    (r"hfc_calibration/ece_(lfc|hfc)_r0*(\d.*)", r"the calibration error on \1(\2)"),
)


def in_words(tag: str) -> str:
    """What a tag's number is, where there are words for it; else the tag.

    >>> in_words("hfc_hfc/r04"), in_words("hfc_channel/centre")
    ('accuracy on HFC(4)', 'hfc_channel/centre')
    """
    for pattern, words in _NAMED:
        if re.fullmatch(pattern, tag):
            text = re.sub(pattern, words, tag)
            return re.sub(r"\b(fgsm|pgd|lfc|hfc)\b", lambda m: m[0].upper(), text)
    return tag


def read_run(path: Path) -> Run:
    """The results in a directory.

    Raises:
        InputError: no directory, or one without results.
    """
    if not path.is_dir():
        raise InputError(f"report: expected a directory that audit wrote (--out), got {path}")
    results = {}
    for file in sorted(path.glob("*.json")):
        try:
            content = json.loads(file.read_bytes())
            if isinstance(content, dict) and "measurement" in content and "scalars" in content:
                results[printable(file.stem)] = _checked(content)
        except (ValueError, RecursionError, OSError) as error:
            raise InputError(
                f"report: expected a result in {printable(file.name)}, got a damaged file; measure "
                "again"
            ) from error
    if not results:
        raise InputError(
            f"report: expected results (*.json of audit or demo) in {path}, got none; a "
            "TensorBoard directory alone does not hold them"
        )
    pictures = {
        printable(file.stem): file.read_bytes()
        for file in sorted(path.glob("*.png"))
        if printable(file.stem) in results and file.is_file()
    }
    return Run(printable(path.resolve().name), results, pictures)


def printable(text: str) -> str:
    r"""Text in one line that a terminal shows and UTF-8 can hold, whatever it was.

    >>> printable("a\x1b[31m\nb \ud800 é")
    'a�[31m�b � é'
    """
    return "".join("�" if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


# Control and format characters (which can turn the text around), halves of a pair, line ends.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_LEVELS = 32  # of nesting in settings; a heatmap's arrays have three


def _checked(content: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a result, with nothing in it that could not be shown.

    Raises:
        ValueError: parts of another kind than :meth:`hfc_probe.Result.to_dict` makes.
    """
    parts = {key: content.get(key, {}) for key in ("scalars", "intervals", "settings")}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError("scalars, intervals and settings are mappings")
    summary, samples = content.get("summary", ""), content.get("samples")
    if not isinstance(summary, str):
        raise ValueError("a summary is text")
    return {
        "measurement": printable(str(content["measurement"])[:100]),
        "summary": printable(summary),
        "samples": _number(samples),
        "scalars": {printable(tag): _number(value) for tag, value in parts["scalars"].items()},
        "intervals": {
            printable(tag): [_number(bound) for bound in bounds]
            for tag, bounds in parts["intervals"].items()
            if isinstance(bounds, list) and len(bounds) == 2
        },
        "settings": {
            printable(key): _shallow(value, _LEVELS) for key, value in parts["settings"].items()
        },
    }


def _number(value: Any) -> int | float | None:
    """A finite number as it is; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    # A whole number of hundreds of digits is no float, and no measurement's.
    return value if abs(value) < 1e300 else None


def _shallow(value: Any, levels: int) -> Any:
    """A setting with its text made printable; ValueError where it is nested too deeply."""
    if levels == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_shallow(item, levels - 1) for item in value]
    if isinstance(value, dict):
        return {printable(key): _shallow(item, levels - 1) for key, item in value.items()}
    return value


def compare(a: Run, b: Run) -> list[Change]:
    """The numbers that both runs have, in their order.

    Raises:
        InputError: no measurement in common.
    """
    common = [name for name in a.results if name in b.results]
    other: dict[str, set[str]] = {}
    for name, key, _, _ in differing_settings(a, b):
        if key not in _HARMLESS:
            other.setdefault(name, set()).add(key)
    if not common:
        raise InputError(
            f"report: expected a measurement that both runs have, got {', '.join(a.results)} and "
            f"{', '.join(b.results)}"
        )
    changes = []
    for name in common:
        first, second = a.results[name], b.results[name]
        for tag, before in first["scalars"].items():
            after = second["scalars"].get(tag)
            if isinstance(before, (int, float)) and isinstance(after, (int, float)):
                differs = other.get(name, set())
                if name == "frequency_accuracy" and tag.startswith(("hfc_lfc/", "hfc_accuracy/")):
                    differs = differs - {_OF_HFC_ALONE}  # no HFC in these
                bounds = _interval(first, tag), _interval(second, tag)
                changes.append(Change(tag, before, after, *bounds, comparable=not differs))
    return changes


def _interval(result: Mapping[str, Any], tag: str) -> tuple[float, float] | None:
    bounds = result.get("intervals", {}).get(tag)
    if not bounds or None in bounds:
        return None
    return float(bounds[0]), float(bounds[1])


def differing_settings(a: Run, b: Run) -> list[tuple[str, str, Any, Any]]:
    """Settings and sample counts in which common measurements differ: (where, which, A, B)."""
    out = []
    for name in a.results:
        if name not in b.results:
            continue
        first, second = a.results[name], b.results[name]
        one = {**first.get("settings", {}), "samples looked at": first.get("samples")}
        two = {**second.get("settings", {}), "samples looked at": second.get("samples")}
        for key in dict.fromkeys((*one, *two)):
            if one.get(key) != two.get(key):
                out.append((name, key, one.get(key), two.get(key)))
    return out


def page(a: Run, b: Run, changes: list[Change]) -> str:
    """The HTML page: what changed in words, each run's words and figures, the whole table."""
    names = html.escape(a.name), html.escape(b.name)
    told = [change for change in changes if change.told_apart]
    words = "".join(f"<li>{html.escape(c.sentence(a.name, b.name))}</li>" for c in told)
    if not told:
        words = "<li>No number is told apart by its 95 % interval.</li>"
    warning = ""
    differing = differing_settings(a, b)
    if differing:
        items = "".join(
            f"<li>{html.escape(where)}: {html.escape(key)} {html.escape(str(x))} against "
            f"{html.escape(str(y))}</li>"
            for where, key, x, y in differing
        )
        apart = (
            " Those marked “measured differently” below are not the same quantity and not judged."
            if any(not change.comparable for change in changes)
            else ""
        )
        warning = (
            "<section class=warning><h2>Measured differently</h2><p>Numbers of these measurements "
            f"are not comparable without a thought.{apart}</p><ul>{items}</ul></section>"
        )
    both = "".join(_measurement(name, a, b) for name in a.results if name in b.results)
    rows = "".join(_row(change) for change in changes)
    only = ", ".join(sorted(set(a.results) ^ set(b.results)))
    alone = f"<p>In one run only: {html.escape(only)}.</p>" if only else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{names[0]} against {names[1]}</title><style>{_STYLE}</style></head><body>
<h1>{names[0]} <span>(A)</span> against {names[1]} <span>(B)</span></h1>
<h2>What changed</h2><ul>{words}</ul>
<p class=note>"More" and "less" are said only where two 95 % intervals do not overlap;
{len(told)} of {len(changes)} numbers are told apart.</p>
{warning}{both}{alone}
<h2>All numbers</h2>
<div class=scroll><table><thead><tr><th>number</th><th>A</th><th>95 %</th><th>B</th><th>95 %</th>
<th>B − A</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>
<p class=note>hfc_probe {__version__}. Everything on this page is in this file.</p>
</body></html>
"""


def _measurement(name: str, a: Run, b: Run) -> str:
    cells = ""
    for letter, run in (("A", a), ("B", b)):
        said = html.escape(str(run.results[name].get("summary", "")))
        picture = ""
        if name in run.pictures:
            data = base64.b64encode(run.pictures[name]).decode()
            alt = html.escape(f"{name} of {run.name}")
            picture = f'<img alt="{alt}" src="data:image/png;base64,{data}">'
        cells += f"<div><h3>{letter}: {html.escape(run.name)}</h3><p>{said}</p>{picture}</div>"
    title = html.escape(name.replace("_", " ").capitalize())
    return f"<h2>{title}</h2><div class=pair>{cells}</div>"


def _row(change: Change) -> str:
    def bounds(interval: tuple[float, float] | None) -> str:
        return "" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"

    kind = " class=told" if change.told_apart else ""
    cells = (
        f"{change.before:.4g}",
        bounds(change.before_interval),
        f"{change.after:.4g}",
        bounds(change.after_interval),
        f"{change.after - change.before:+.4g}",
    )
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr{kind}><th>{html.escape(change.tag)}</th>{numbers}<td>{change.judged}</td></tr>"


_STYLE = """
body{font:16px/1.45 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;
color:#222;background:#fff}
h1 span{color:#777;font-weight:normal}
h2{border-bottom:1px solid #ddd;padding-bottom:.2rem;margin-top:2.2rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(26rem,1fr));gap:1.5rem}
.pair h3{margin:.2rem 0}
img{max-width:100%;height:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #eee;white-space:nowrap}
tbody th{text-align:left;font-weight:normal}
thead th{border-bottom:2px solid #999}
thead th:first-child{text-align:left}
.told{background:#fff4dc}
.scroll{overflow-x:auto}
.warning{background:#fdeee6;padding:.2rem 1rem 1rem;margin-top:1.5rem}
.note{color:#666;font-size:.9rem}
"""
