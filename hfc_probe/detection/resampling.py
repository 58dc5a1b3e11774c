"""Intervals of average precision: from half samples of the images, without a further pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .assignment import IOU
from .evaluation import RECALL, ClassMatches, Evaluation

_FEWEST = 250  # replicates in work at once, for rows that are worth a call
_CELLS = 300_000  # replicates × true positives in work at once, as many as a cache holds


def resampled(
    by_class: Sequence[ClassMatches], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AP, AP50 and AP75 with each image counted as often as its weight says.

    A weight of n is n copies of the image, so whole weights give what COCOeval gives on
    a data set with those copies (up to the order of equal scores).

    Args:
        by_class: from :class:`Evaluation`.
        weights: ``(B, I)``.

    Returns:
        ``(B, 3)``; NaN if no object is drawn.
    """
    columns = np.ascontiguousarray(weights.T)
    total, classes = np.zeros((len(IOU), len(weights))), np.zeros(len(weights))
    for matches in by_class:
        here = np.flatnonzero(matches.objects)
        objects = matches.objects[here] @ columns[here]
        classes += objects > 0
        if matches.hit.any():
            total += _weighted(matches, columns, np.maximum(objects, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / classes
    return np.stack([mean.mean(0), mean[0], mean[5]], axis=1)


def resampled_metrics(evaluation: Evaluation, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """All of :data:`METRICS`, as :func:`resampled`, ``(B, 6)``."""
    sizes = [resampled(by_class, weights)[:, :1] for by_class in evaluation.by_size]
    return np.concatenate([resampled(evaluation.by_class, weights), *sizes], axis=1)


def _weighted(
    matches: ClassMatches, columns: NDArray[np.float64], objects: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AP of one class per IoU threshold and replicate, ``(T, B)``.

    Precision falls between true positives, so their ranks are the only ones that matter: what is
    shown between two of them is counted by image, by a product with a sparse matrix.

    Args:
        columns: ``(I, B)`` how often each image is drawn.
        objects: ``(B,)``, at least 1.
    """
    ranks = np.flatnonzero(matches.hit.any(0))
    end = ranks[-1] + 1
    images, place = np.unique(matches.image[:end], return_inverse=True)
    counts = matches.counts[:, :end]
    always: NDArray[np.bool_] = np.asarray(counts.all(0))

    def until(right: NDArray[np.int64], chosen: NDArray[np.bool_]) -> Any:
        """What sums up chosen detections, weighted by image, to some true positives."""
        chosen = chosen & (np.arange(end) <= right[-1])
        rows = np.searchsorted(right, np.flatnonzero(chosen))
        cells = torch.from_numpy(np.stack([rows, place[chosen]]))
        ones = torch.ones(len(rows), dtype=torch.float64)
        size = (len(right), len(images))
        matrix = torch.sparse_coo_tensor(cells, ones, size, check_invariants=False).coalesce()
        return lambda drawn: _running(np.add, (matrix @ torch.from_numpy(drawn)).numpy())

    by_threshold: list[Any] = []
    for hit, row in zip(matches.hit, counts & ~always, strict=True):
        right = np.flatnonzero(hit)
        more = until(right, row) if len(right) and row[: right[-1] + 1].any() else None
        by_threshold.append((right, np.searchsorted(ranks, right), more))
    shown_by = until(ranks, always)
    sizes, which = np.unique(objects, return_inverse=True)
    levels = [_levels(int(size)) for size in sizes]
    table, first = np.concatenate(levels), np.cumsum([0, *map(len, levels[:-1])])[which]
    out = np.zeros((len(IOU), columns.shape[1]))
    own = columns[images]
    step = max(_FEWEST, _CELLS // len(ranks))
    for start in range(0, columns.shape[1], step):
        part = slice(start, start + step)
        drawn = np.ascontiguousarray(own[:, part])
        shown = shown_by(drawn)
        for t, (right, rows, more) in enumerate(by_threshold):
            if not len(right):
                continue
            counted = shown[rows]
            if more is not None:
                counted += more(drawn)
            counted += np.spacing(1)
            found = _running(np.add, drawn[place[right]])
            envelope = np.divide(found, counted, out=counted)
            _running(np.maximum, envelope[::-1])
            # As in `interpolated`: each rank answers for the levels that it is the first to reach.
            reached = table.take(np.add(found, first[part], dtype=np.intp, casting="unsafe"))
            out[t, part] = envelope[0] * reached[0]
            out[t, part] += np.multiply(envelope[1:], np.diff(reached, axis=0)).sum(0)
    return out / len(RECALL)


@lru_cache(maxsize=10_000)
def _levels(objects: int) -> NDArray[np.int8]:
    """How many recall levels are reached with 0, 1, … of some objects found."""
    return np.searchsorted(RECALL, np.arange(objects + 1) / objects, "right").astype(np.int8)


def _running(ufunc: np.ufunc, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """``ufunc.accumulate`` along axis 0, in place: row by row, which is twice as fast."""
    for k in range(1, len(rows)):
        ufunc(rows[k - 1], rows[k], out=rows[k])
    return rows


def bootstrap_weights(images: int, replicates: int, seed: int) -> NDArray[np.float64]:
    """How often each image is drawn in each replicate, ``(B, I)``."""
    rng = np.random.default_rng(seed)
    share = np.full(images, 1 / images)
    return rng.multinomial(images, share, size=replicates).astype(np.float64)


def half_samples(
    images: int, replicates: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Random halves of the images with the other halves, and the halves of each of them.

    Drawn without replacement: copies of an image are ranked side by side, so that AP of data with
    copies is further off than that of fewer images. AP varies over half samples as much as over
    data sets.

    Returns:
        P pairs of halves ``(2, P, I)`` and the halves of each ``(2, 2, P, I)``, as many in all as
        there are replicates or up to 5 more: 1 for an image in a sample, 0 for the others.
    """
    rng = np.random.default_rng(seed)

    def halved(whole: NDArray[np.bool_]) -> NDArray[np.bool_]:
        place = np.where(whole, rng.random(whole.shape), 2).argsort(-1).argsort(-1)
        first = place < whole.sum(-1, keepdims=True) // 2
        return np.stack([first, whole & ~first])

    halves = halved(np.ones((-(-replicates // 6), images), dtype=bool))
    return halves.astype(np.float64), halved(halves).astype(np.float64)


def intervals(
    evaluations: Mapping[str, Evaluation], original: str, replicates: int, seed: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """95 % intervals of every variant's :data:`METRICS`, and of its AP, AP50 and AP75's changes.

    Args:
        original: the variant that changes are from.

    Returns:
        ``(6, 2)`` by variant; ``(3, 2)`` by variant but the original.
    """
    halves, quarters = half_samples(len(evaluations[original].images), replicates, seed)
    samples = [part.reshape(-1, part.shape[-1]) for part in (halves, quarters)]
    drawn = {}
    for name, evaluation in evaluations.items():
        found = resampled_metrics(evaluation, np.concatenate(samples))
        parts = np.split(found, [len(samples[0])])
        shapes = halves.shape[:-1], quarters.shape[:-1]
        drawn[name] = (
            evaluation.metrics,
            *(part.reshape(*shape, -1) for part, shape in zip(parts, shapes, strict=True)),
        )
    own = {name: interval_of(*of) for name, of in drawn.items()}
    changes = {}
    for name in (name for name in drawn if name != original):
        of = (v[..., :3] - o[..., :3] for v, o in zip(drawn[name], drawn[original], strict=True))
        changes[name] = interval_of(*of, change=True)
    return own, changes


def interval_of(
    values: NDArray[np.float64],
    halves: NDArray[np.float64],
    quarters: NDArray[np.float64],
    *,
    change: bool = False,
    confidence: float = 0.95,
) -> NDArray[np.float64]:
    """Interval ``(n, 2)`` of each of some APs: of the detector on any number of such images.

    AP of few images is too high, as a class of two objects may be found by chance, and as the best
    precision at a recall or above is picked. AP of half of them is higher still, and the difference
    is subtracted, which is Quenouille's jackknife of two halves. Each half sample is corrected by
    its own two halves. The width is their standard deviation, which also holds what the correction
    leaves of the bias; that of a change, where two biases nearly cancel, is of half the
    difference of complementary halves. What they cover in a simulation: docs/audit_a_detector.md.

    Args:
        values: ``(n,)``, of all images.
        halves, quarters: ``(2, P, n)`` and ``(2, 2, P, n)``, of :func:`half_samples`.
        change: the values are differences of two APs, of the same images.

    Returns:
        NaN if fewer than two half samples show an object in both halves.

    Sources: Quenouille, "Notes on bias in estimation", Biometrika 1956; Shao and Tu, "The Jackknife
    and Bootstrap", 1995, §1.3 and §5.2.
    """
    corrected = 2 * halves - quarters.mean(0)
    reach = NormalDist().inv_cdf((1 + confidence) / 2)
    bounds = np.full((len(values), 2), np.nan)
    for k, value in enumerate(values):
        pairs = corrected[:, np.isfinite(corrected[..., k]).all(0), k]
        if pairs.size and np.isfinite(value):
            centre = 2 * value - np.nanmean(halves[..., k])
            spread = np.sqrt((np.diff(pairs, axis=0) ** 2).mean()) / 2 if change else pairs.std()
            bounds[k] = centre + np.array([-1, 1]) * reach * spread
    clipped: NDArray[np.float64] = np.clip(bounds, -1.0 if change else 0.0, 1.0)
    return clipped


def percentile_interval(
    drawn: NDArray[np.float64], confidence: float = 0.95
) -> NDArray[np.float64]:
    """Lower and upper bound of replicates ``(B, n)`` as ``(n, 2)``; NaN if none is finite.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, §13.3.
    """
    known = drawn[np.isfinite(drawn).all(1)]
    if not len(known):
        return np.full((drawn.shape[1], 2), np.nan)
    tail = 100 * (1 - confidence) / 2
    bounds: NDArray[np.float64] = np.percentile(known, (tail, 100 - tail), axis=0).T
    return bounds
