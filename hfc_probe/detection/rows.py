"""The rows of a detection audit as CSV: by class, image, object and kind of mistake."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors_by_kind import KINDS


def classes(result: Any) -> str:
    """One row per category: its objects and its AP on every variant."""
    heads = ["category_id", "category", "objects", *(f"AP_{n}" for n in result.variants)]
    rows = [
        [
            category,
            result.truth.categories[category],
            sum(o["category_id"] == category for o in result.objects),
            *(_cell(result.classes[n][k]) for n in result.variants),
        ]
        for k, category in enumerate(sorted(result.truth.categories))
    ]
    return _csv(heads, rows)


def errors(result: Any) -> str:
    """One row per variant and kind of mistake: how many, and what they cost."""
    rows = [
        [name, kind, int(count), _cell(cost)]
        for name, found in result.errors().items()
        for kind, count, cost in zip(KINDS, found.counts, found.cost, strict=True)
    ]
    return _csv(["variant", "kind", "count", "cost_AP50"], rows)


def images(result: Any) -> str:
    """One row per image: its objects and its AP alone on every variant."""
    objects = np.zeros(len(result.image_ids), dtype=np.int64)
    position = {image_id: k for k, image_id in enumerate(result.image_ids)}
    for annotation in result.objects:
        objects[position[annotation["image_id"]]] += 1
    heads = ["image_id", "file_name", "objects", *(f"AP_{n}" for n in result.variants)]
    rows = [
        [
            image_id,
            result.truth.images[image_id].get("file_name", ""),
            int(objects[k]),
            *(_cell(result.images_ap[n][k]) for n in result.variants),
        ]
        for k, image_id in enumerate(result.image_ids)
    ]
    return _csv(heads, rows)


def objects(result: Any) -> str:
    """One row per object: the score it is found with at IoU 0.5 on every variant."""
    heads = ["annotation_id", "image_id", "category_id", "category", "area"]
    heads += [f"score_{n}" for n in result.variants]
    rows = [
        [
            o["id"],
            o["image_id"],
            o["category_id"],
            result.truth.categories[o["category_id"]],
            o["area"],
            *(_cell(result.score[n][k]) for n in result.variants),
        ]
        for k, o in enumerate(result.objects)
    ]
    return _csv(heads, rows)


def confusion(result: Any) -> str:
    """One row per variant, true and detected class that occur together.

    The true class of a false detection and the detected class of a missed object are empty.
    """
    names: list[tuple[Any, str]] = [*sorted(result.truth.categories.items()), ("", "")]
    rows = []
    for variant in result.variants:
        counts = result.operating_point(variant).confusion
        for true, seen in np.argwhere(counts).tolist():
            rows.append([variant, *names[true], *names[seen], int(counts[true, seen])])
    heads = ["variant", "true_id", "true", "detected_id", "detected", "count"]
    return _csv(heads, rows)


FILES: dict[str, Callable[[Any], str]] = {
    "images.csv": images,
    "objects.csv": objects,
    "classes.csv": classes,
    "errors.csv": errors,
    "confusion.csv": confusion,
}


def _cell(value: float) -> str:
    return repr(float(value)) if np.isfinite(value) else ""


def _csv(heads: list[str], rows: list[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return buffer.getvalue()
