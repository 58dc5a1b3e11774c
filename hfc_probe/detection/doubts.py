"""What is wrong with a detector's boxes or labels when another reading of them fits far better."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .coco import Detections, GroundTruth, ImageId

Corners = NDArray[np.float64]  # (n, 4) x0, y0, x1, y1
_FEW = 10  # objects or matches, below which nothing is said
_SHARE = 0.05  # of boxes that may be odd without a word
_TOP = 20  # detections of an image that are looked at, best first


class _Image(NamedTuple):
    size: tuple[float, float]  # width, height; NaN if unknown
    given: Corners
    labels: NDArray[np.int64]
    objects: Corners
    categories: NDArray[np.int64]


def doubts_about(
    truth: GroundTruth, image_ids: Sequence[ImageId], found: Mapping[ImageId, Detections]
) -> tuple[str, ...]:
    """Sentences on detections on the original images that cannot be meant as they are.

    Another form of the boxes, or another numbering of the labels, is named only if the
    annotated objects are met far better under it.
    """
    images = list(_images(truth, image_ids, found))
    if not any(len(image.given) for image in images):
        return ("nothing was detected on the original images, so that no change can be seen",)
    form = _form(images)
    if form is not None:
        return (form,)
    said = [*_odd_boxes(images), *_labels(images, sorted(truth.categories))]
    return tuple(said)


def _images(
    truth: GroundTruth, image_ids: Sequence[ImageId], found: Mapping[ImageId, Detections]
) -> Iterator[_Image]:
    objects: dict[ImageId, list[Any]] = {image_id: [] for image_id in image_ids}
    for annotation in truth.annotations:
        if annotation["image_id"] in objects and not annotation["iscrowd"]:
            objects[annotation["image_id"]].append(annotation)
    for image_id, here in objects.items():
        entry = truth.images[image_id]
        size = tuple(float(entry.get(k) or np.nan) for k in ("width", "height"))
        rows = found.get(image_id)
        boxes = np.zeros((0, 4)) if rows is None else rows.boxes
        scores = np.zeros(0) if rows is None else rows.scores
        order = np.argsort(-scores, kind="stable")[:_TOP]
        yield _Image(
            (size[0], size[1]),
            corners(boxes[order]),
            np.zeros(0, dtype=np.int64) if rows is None else rows.labels[order],
            corners(np.array([a["bbox"] for a in here], dtype=np.float64).reshape(-1, 4)),
            np.array([a["category_id"] for a in here], dtype=np.int64),
        )


def corners(boxes: NDArray[np.float64]) -> Corners:
    """x, y, width, height as x0, y0, x1, y1."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _from_centre(given: Corners) -> Corners:
    return np.concatenate([given[:, :2] - given[:, 2:] / 2, given[:, :2] + given[:, 2:] / 2], 1)


# What the four numbers may be in place of x0, y0, x1, y1, in pixels.
_FORMS: dict[str, Callable[[Corners], Corners]] = {
    "x0, y0, width, height": corners,
    "the centre, width, height": _from_centre,
    "y0, x0, y1, x1": lambda given: given[:, [1, 0, 3, 2]],
    "x1, y1, x0, y0": lambda given: given[:, [2, 3, 0, 1]],
}


def _form(images: list[_Image]) -> str | None:
    """The form of the boxes that objects are met best under, if it is not the right one."""

    def met(read: Callable[[Corners], Corners], scale: bool) -> float:
        best: list[float] = []
        for image in images:
            if len(image.objects) and not (scale and np.isnan(image.size).any()):
                factor = np.tile(image.size, 2) if scale else 1.0
                overlap = ious(read(image.given) * factor, image.objects)
                best.extend(overlap.max(0) if len(image.given) else np.zeros(len(image.objects)))
        return float(np.mean(best)) if len(best) >= _FEW else 0.0

    right: dict[str, Callable[[Corners], Corners]] = {"x0, y0, x1, y1": lambda given: given}
    given = np.concatenate([image.given for image in images])
    small = bool(np.abs(given).max(1).__le__(1.5).mean() > 1 - _SHARE)
    plain = met(right["x0, y0, x1, y1"], scale=False)
    forms = [*right.items(), *_FORMS.items()] if small else list(_FORMS.items())
    best, name = max((met(read, small), name) for name, read in forms)
    if best < 2 * plain or best < plain + 0.1:
        if not small:
            return None
        return (
            f"the boxes lie within {np.abs(given).max():.3g} pixels of the corner: normalised "
            "coordinates? multiply them by the image's width and height"
        )
    shares = ", as shares of the image" if small else ""
    return (
        f"the boxes look like {name}{shares}, and are read as x0, y0, x1, y1 in pixels (mean IoU "
        f"with the objects {plain:.2f}, {best:.2f} in that form); convert them"
    )


def _odd_boxes(images: list[_Image]) -> Iterator[str]:
    empty = outside = total = 0
    for image in images:
        x0, y0, x1, y1 = image.given.T
        width, height = image.size
        total += len(x0)
        empty += int(((x1 <= x0) | (y1 <= y0)).sum())
        # The centre, beyond the frame by a tenth of it.
        x, y = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height
        outside += int(((x < -0.1) | (x > 1.1) | (y < -0.1) | (y > 1.1)).sum())
    if empty > _SHARE * total:
        yield (
            f"{empty} of {total} boxes have no positive width or height; give x0, y0, x1, y1 with "
            "x0 < x1 and y0 < y1"
        )
    if outside > _SHARE * total:
        yield (
            f"{outside} of {total} boxes have their centre outside the image; are they in pixels "
            "of the detector's input? map them back to the original image"
        )


def _labels(images: list[_Image], ids: list[int]) -> Iterator[str]:
    """A numbering of the labels that explains what is found better than the annotations'."""
    pairs = np.array([pair for image in images for pair in _pairs(image)], dtype=np.int64)
    if len(pairs) < _FEW:
        return
    label, category = pairs.T
    contiguous = dict(enumerate(ids))
    forms = {
        "one too high": {k + 1: k for k in ids},
        "one too low": {k - 1: k for k in ids},
        f"positions from 0 to {len(ids) - 1} in the annotations' categories": contiguous,
        f"positions from 1 to {len(ids)} in the annotations' categories": {
            k + 1: v for k, v in contiguous.items()
        },
    }
    as_is = label == category
    right = float(as_is.mean())
    under = {
        name: np.array([form.get(k, -1) for k in label.tolist()]) == category
        for name, form in forms.items()
    }
    # How often only one of the two numberings is right: chance and confusion make no one-sided
    # difference, even if most objects are of classes that both number alike.
    gains = {name: int((found & ~as_is).sum()) for name, found in under.items()}
    name = max(gains, key=lambda name: gains[name])
    if gains[name] >= max(_FEW, 5 * int((as_is & ~under[name]).sum())):
        yield (
            f"the labels look like {name}: {100 * right:.0f} % of the boxes on an object have its "
            f"category id, {100 * float(under[name].mean()):.0f} % under that numbering; map them"
        )
        return
    permuted, moved = _permuted(label, category)
    if permuted >= max(2 * right, 0.7):
        yield (
            f"the labels look permuted: {100 * right:.0f} % of the boxes on an object have its "
            f"category id, {100 * permuted:.0f} % with other names for the classes (such as "
            f"{moved}); check the detector's list of classes"
        )


def best_assignment(table: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One row per column, or the reverse, of the largest sum: the Hungarian method, in O(n³).

    >>> rows, columns = best_assignment(np.array([[1.0, 5.0], [4.0, 9.0], [8.0, 8.0]]))
    >>> [(int(r), int(c)) for r, c in zip(rows, columns)]
    [(1, 1), (2, 0)]
    """
    if len(table) > table.shape[1]:
        columns, rows = best_assignment(table.T)
        order = rows.argsort()
        return rows[order], columns[order]
    n, m = table.shape
    cost = np.zeros((n + 1, m + 1))
    cost[1:, 1:] = -table
    of_row, of_column = np.zeros(n + 1), np.zeros(m + 1)  # the potentials
    row_of, before = np.zeros(m + 1, dtype=np.int64), np.zeros(m + 1, dtype=np.int64)
    for row in range(1, n + 1):
        row_of[0], at = row, 0
        slack, visited = np.full(m + 1, np.inf), np.zeros(m + 1, dtype=bool)
        while row_of[at]:  # the shortest way to a free column
            visited[at] = True
            reduced = cost[row_of[at]] - of_row[row_of[at]] - of_column
            nearer = ~visited & (reduced < slack)
            slack[nearer], before[nearer] = reduced[nearer], at
            nearest = int(np.where(visited, np.inf, slack).argmin())
            step = slack[nearest]
            of_row[row_of[visited]] += step
            of_column[visited] -= step
            slack[~visited] -= step
            at = nearest
        while at:
            row_of[at] = row_of[before[at]]
            at = int(before[at])
    chosen = np.flatnonzero(row_of[1:])
    rows = row_of[1:][chosen] - 1
    order = rows.argsort()
    return rows[order], chosen[order]


def _permuted(label: NDArray[np.int64], category: NDArray[np.int64]) -> tuple[float, str]:
    """Share explained by the best permutation, of categories met three times, and an example."""
    kinds, counts = np.unique(category, return_counts=True)
    kinds = kinds[counts >= 3]
    known = np.isin(category, kinds)
    if len(kinds) < 3 or known.sum() < 2 * _FEW:
        return 0.0, ""
    labels = np.unique(label[known])
    table = np.zeros((len(labels), len(kinds)))
    np.add.at(table, (np.searchsorted(labels, label[known]),
                      np.searchsorted(kinds, category[known])), 1)  # fmt: skip
    rows, columns = best_assignment(table)
    pairs = [(table[r, c], labels[r], kinds[c]) for r, c in zip(rows, columns, strict=True)
             if labels[r] != kinds[c]]  # fmt: skip
    if not pairs:
        return 0.0, ""
    _, one, other = max(pairs)
    return float(table[rows, columns].sum() / known.sum()), f"{one} for {other}"


def _pairs(image: _Image) -> Iterator[tuple[int, int]]:
    """Label and category of the best box on each object, whatever its class."""
    if len(image.given) and len(image.objects):
        near = ious(image.given, image.objects) >= 0.5
        for k, row in enumerate(near.argmax(0)):  # best first
            if near[row, k]:
                yield int(image.labels[row]), int(image.categories[k])


def ious(a: Corners, b: Corners) -> NDArray[np.float64]:
    """Intersection over union of boxes x0, y0, x1, y1, ``(n, m)``; 0 for empty ones."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low, 0, None).prod(-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1] - inside
    shared: NDArray[np.float64] = np.divide(
        inside, union, out=np.zeros_like(union), where=union > 0
    )
    return shared
