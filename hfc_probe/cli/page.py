"""Two runs on one page: what changed, by how much, and whether it can be told."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable

from ..version import __version__
from .comparison import Change, Comparison, Interval
from .stored import Run

# Of the provenance, what the page tells of both runs; what differs is told above it as well.
_PROVENANCE = (
    *("date", "command", "version", "model", "weights", "epoch", "step", "device"),
    *("data", "images", "samples", "selection", "resampling", "classes", "chance"),
    *("mean", "std", "normalization"),
)


def page(found: Comparison) -> str:
    """The HTML page: what cannot be trusted, what changed, each run's words, the whole table."""
    a, b = found.a, found.b
    names = html.escape(a.name), html.escape(b.name)
    words = _list(change.sentence(a.name, b.name) for change in found.told) or _list(
        ["No number is told apart by the 95 % interval of the difference."]
    )
    cautions = _warning("Not to be trusted as they are", "", found.cautions)
    decisive = [str(one) for one in found.differing if one.decisive]
    rest = [str(one) for one in found.differing if not one.decisive]
    apart = "Numbers marked “measured differently” below are not the same quantity: not judged."
    warning = _warning("Measured differently", apart, decisive)
    also = f"<h2>Also not alike</h2>{_list(rest)}" if rest else ""
    common = [name for name in a.results if name in b.results]
    both = "".join(_measurement(name, a, b) for name in common)
    rows = "".join(_row(change) for change in found.changes)
    only = ", ".join([*sorted(set(a.results) ^ set(b.results)), *found.alone])
    alone = f"<p>In one run only: {html.escape(only)}.</p>" if only else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{names[0]} against {names[1]}</title><style>{_STYLE}</style></head><body>
<h1>{names[0]} <span>(A)</span> against {names[1]} <span>(B)</span></h1>
{cautions}{warning}
<h2>What changed</h2><ul>{words}</ul>
<p class=note>"More" and "less" are said only if the 95 % interval of the difference excludes 0.
{html.escape(found.count())} {html.escape(" ".join(found.notes))}</p>
{also}{both}{alone}
<h2>All numbers</h2>
<div class=scroll><table><thead><tr><th>number</th><th>A</th><th>95 %</th><th>B</th><th>95 %</th>
<th>B − A</th><th>95 %</th><th></th></tr></thead><tbody>{rows}</tbody></table></div>
{_origins(a, b, common[0])}
<p class=note>hfc_probe {__version__}. Everything on this page is in this file.</p>
</body></html>
"""


def _list(items: Iterable[str]) -> str:
    return "".join(f"<li>{html.escape(item)}</li>" for item in items)


def _warning(title: str, words: str, items: Iterable[str]) -> str:
    listed = _list(items)
    if not listed:
        return ""
    said = f"<p>{html.escape(words)}</p>" if words else ""
    return f"<section class=warning><h2>{title}</h2>{said}<ul>{listed}</ul></section>"


def _origins(a: Run, b: Run, name: str) -> str:
    """Where both runs' numbers come from, as the measurement of that name says."""
    one, two = (run.results[name].get("provenance", {}) for run in (a, b))
    rows = ""
    for key in _PROVENANCE:
        values = [one.get(key), two.get(key)]
        if values != [None, None]:
            cells = "".join(f"<td>{html.escape('' if v is None else str(v))}</td>" for v in values)
            rows += f"<tr><th>{key}</th>{cells}</tr>"
    if not rows:
        return ""
    return (
        "<h2>Where they come from</h2><div class=scroll><table class=words><thead><tr><th></th>"
        f"<th>A</th><th>B</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


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
    def number(value: float, how: str) -> str:
        return format(value, how) if math.isfinite(value) else "–"

    def bounds(interval: Interval | None, how: str = ".3f") -> str:
        return "" if interval is None else f"[{interval[0]:{how}}, {interval[1]:{how}}]"

    kind = " class=told" if change.told_apart else ""
    cells = (
        number(change.before, ".4g"),
        bounds(change.before_interval),
        number(change.after, ".4g"),
        bounds(change.after_interval),
        "" if change.refused else number(change.after - change.before, "+.4g"),
        "" if change.refused else bounds(change.difference, "+.3f"),
    )
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    said = change.judged + (", paired" if change.paired and not change.refused else "")
    return f"<tr{kind}><th>{html.escape(change.tag)}</th>{numbers}<td>{said}</td></tr>"


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
.words td{text-align:left;white-space:normal}
.told{background:#fff4dc}
.scroll{overflow-x:auto}
.warning{background:#fdeee6;padding:.2rem 1rem 1rem;margin-top:1.5rem}
.note{color:#666;font-size:.9rem}
"""
