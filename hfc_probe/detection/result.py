"""What a detection audit found: AP, its changes by image and object, and where to see them.

Long because a detection audit has many views of the same arrays.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import fourier
from ..core.intervals import percent, proportion_arrays, wilson
from ..core.labels import Label, accuracy_label
from ..core.result import Result
from ..ground.errors import InputError, named
from ..ground.files import plain, write_atomically
from .coco import DetectionDataset, Detections, GroundTruth, ImageId, IouType, to_results
from .doubts import doubts_about
from .errors_by_kind import KINDS, Errors, errors_of
from .evaluation import (
    GROUPS,
    METRICS,
    Evaluation,
    objects_in,
    recall_names,
)
from .fiftyone_samples import write_samples
from .operating_point import OperatingPoint, best_threshold, operating_point
from .overlap import OF
from .resampling import bootstrap_weights, intervals
from .rows import FILES
from .variants import CONTROL, ORIGINAL, variant_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Direction = Literal["gain", "drop"]
SHARES = ("F1", "precision", "recall")
_DIRECTIONS: tuple[Direction, ...] = ("gain", "drop")


@dataclass(frozen=True, eq=False)
class Changes:
    """What a variant gets better or worse than the original; positions, largest change first.

    Attributes:
        images: positions in ``image_ids`` whose AP changed by more than the margin, with an
            original AP of at least the floor.
        images_any: all whose AP changed in that direction: the paper's count.
        objects: positions in ``objects`` that only one of the two finds, with a score above
            the margin, in images with an original AP of at least the floor.
        objects_any: all that only one of the two finds.
    """

    images: NDArray[np.int64]
    images_any: NDArray[np.int64]
    objects: NDArray[np.int64]
    objects_any: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DetectionAuditResult(Result):
    """AP of every variant, of the data set, by class, by image; matches by object.

    ``arrays()``, R radii, K categories by rising id, I images and G objects (crowds left out)
    by image; AP in [0, 1], NaN if no object is:

    - ``radii`` (R,) in the settings' units; ``metrics`` is the order AP, AP50, AP75,
      AP_small, AP_medium, AP_large;
    - ``original`` (6,), ``lfc`` (R, 6), ``hfc`` (R, 6), with ``_lower`` and ``_upper``, the 95 %
      interval over images (:func:`hfc_probe.detection.resampling.interval_of`);
    - ``original_recall`` (3,), ``lfc_recall``, ``hfc_recall`` (R, 3): average recall with at most
      1, 10 and ``max_dets`` detections per image and class;
    - ``original_frequency`` (3,), ``lfc_frequency``, ``hfc_frequency`` (R, 3), with LVIS's
      annotations alone: AP of rare, common and frequent categories;
    - ``lfc_difference``, ``hfc_difference`` (R, 3): AP, AP50, AP75 minus the original's, with
      ``_lower`` and ``_upper``, the 95 % interval over images, of half samples;
    - ``lfc_gain``, ``lfc_drop``, ``lfc_gain_any``, ``lfc_drop_any`` and the same for ``hfc``
      (R,): share of images that a variant gets better or worse, see :class:`Changes`, with
      ``_lower``, ``_upper`` (95 % Wilson), ``_correct``, ``_count``;
    - ``class_ids`` (K,), ``original_class`` (K,), ``lfc_class``, ``hfc_class`` (R, K);
    - ``image_ids`` (I,), ``original_image`` (I,), ``lfc_image``, ``hfc_image`` (R, I): AP of
      each image alone; ``control_image`` (I,) if the audit had a control;
    - ``object_ids`` (G,), ``original_object`` (G,), ``lfc_object``, ``hfc_object`` (R, G): score
      of the detection that matches the object at IoU 0.5, NaN if it is missed;
    - ``original_f1`` (), ``lfc_f1``, ``hfc_f1`` (R,) at ``threshold``, with ``_lower`` and
      ``_upper``, the 95 % bootstrap interval over images; ``_precision`` and ``_recall`` likewise,
      with 95 % Wilson intervals, ``_correct``, ``_count``;
    - ``original_errors`` (6,), ``lfc_errors``, ``hfc_errors`` (R, 6): AP50 lost to each kind of
      mistake, in the order classification, localization, both, duplicate, background, missed;
      ``_errors_found``, how many there are.

    Attributes:
        image_ids: images evaluated, sorted.
        objects: annotations of the objects, in the order of the arrays.
        predictions: detections by variant and image.
        match: per variant, which of its image's detections matched each object; −1: none.
        skipped: images left out, and why.
        notes: what a reader of the numbers has to know.
        control: AP of each image without frequencies that nobody sees, ``(I,)``, if shown so.
        doubts: what is wrong with the detector's boxes or labels; the caveats.
        dataset: where pictures for :meth:`examples_figure` are read again.
    """

    truth: GroundTruth
    image_ids: tuple[ImageId, ...]
    objects: tuple[dict[str, Any], ...]
    predictions: Mapping[str, Mapping[ImageId, Detections]]
    metrics: Mapping[str, NDArray[np.float64]]
    classes: Mapping[str, NDArray[np.float64]]
    images_ap: Mapping[str, NDArray[np.float64]]
    match: Mapping[str, NDArray[np.int64]]
    score: Mapping[str, NDArray[np.float64]]
    intervals_of: Mapping[str, NDArray[np.float64]]
    difference_intervals: Mapping[str, NDArray[np.float64]]
    skipped: Mapping[ImageId, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    control: NDArray[np.float64] | None = None
    dataset: DetectionDataset | None = None
    recalls: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    groups: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        *,
        settings: Mapping[str, Any],
        truth: GroundTruth,
        image_ids: tuple[ImageId, ...],
        predictions: Mapping[str, Mapping[ImageId, Detections]],
        evaluations: Mapping[str, Evaluation],
        skipped: Mapping[ImageId, str],
        control: NDArray[np.float64] | None = None,
    ) -> DetectionAuditResult:
        """Put evaluations together, with intervals over images."""
        changes = {n: np.full((3, 2), np.nan) for n in evaluations if n != ORIGINAL}
        own = {n: np.full((6, 2), np.nan) for n in evaluations}
        replicates = settings["bootstrap"]
        nothing = not any(m.hit.any() for m in evaluations[ORIGINAL].by_class)
        if replicates and len(image_ids) > 1 and not nothing:
            own, changes = intervals(evaluations, ORIGINAL, replicates, settings["seed"])
        return cls(
            settings=settings,
            samples=len(image_ids),
            truth=truth,
            image_ids=image_ids,
            objects=tuple(objects_in(truth, image_ids, settings["iou_type"])),
            predictions=predictions,
            metrics={n: e.metrics for n, e in evaluations.items()},
            recalls={n: e.recalls for n, e in evaluations.items()},
            groups={n: e.groups for n, e in evaluations.items() if e.groups is not None},
            classes={n: e.classes for n, e in evaluations.items()},
            images_ap={n: e.images for n, e in evaluations.items()},
            match={n: e.match for n, e in evaluations.items()},
            score={n: e.score for n, e in evaluations.items()},
            intervals_of=own,
            difference_intervals=changes,
            skipped=skipped,
            control=control,
            notes=_notes(settings, truth, image_ids, predictions, skipped),
            doubts=doubts_about(truth, image_ids, predictions[ORIGINAL]),
        )

    def reading(self, dataset: DetectionDataset | None) -> DetectionAuditResult:
        """The same result with a data set that pictures are read from."""
        return dataclasses.replace(self, dataset=dataset)

    @property
    def caveats(self) -> tuple[str, ...]:
        return self.doubts

    @property
    def radii(self) -> tuple[float, ...]:
        return tuple(self.settings["radii"])

    @property
    def background(self) -> str:
        return str(self.settings["hfc_background"])

    @property
    def rescale(self) -> str | None:
        return self.settings.get("rescale")  # absent in results of older versions

    @property
    def iou_type(self) -> IouType:
        """What was compared with the annotations: ``bbox``, ``segm`` or ``keypoints``."""
        kind: IouType = self.settings.get("iou_type", "bbox")  # absent in older results
        return kind

    @property
    def recall_names(self) -> tuple[str, ...]:
        """Average recall with 1, 10 and all detections per image and class."""
        return recall_names(self.settings["max_dets"]) if self.recalls else ()

    def _tag(self, quantity: str, name: str) -> str:
        kind = "" if self.iou_type == "bbox" else f"{self.iou_type}_"
        return f"hfc_detection/{kind}{quantity}/{name}"

    @property
    def threshold(self) -> float:
        """The score from which on F1 at IoU 0.5 is largest on the originals, of all classes.

        0.5 if nothing is right on the originals.
        """
        return 0.5 if self._best_threshold is None else self._best_threshold

    @property
    def threshold_reason(self) -> str:
        """Why :attr:`threshold` is what it is."""
        if self._best_threshold is None:
            return "as nothing on the originals is right at any score"
        return "where F1 on the originals is largest"

    @cached_property
    def _best_threshold(self) -> float | None:
        found = self.predictions[ORIGINAL]
        return best_threshold(self.truth, self.image_ids, found, self.iou_type)

    @property
    def place(self) -> str:
        """Where the filter acted, in words."""
        at = self.settings.get("at", "image")  # absent in results of older versions
        return "original image" if at == "image" else "detector's resized input"

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants: ``original``, ``lfc_r128``, …"""
        return variant_names(self.radii)

    @property
    def main_variant(self) -> str:
        """The LFC that sentences and examples speak of: of the middle radius."""
        return self.variants[1 + len(self.radii) // 2]

    @property
    def unit(self) -> str:
        return "cycles/image" if self.settings["units"] == "cycles" else "× Nyquist"

    def changes(self, variant: str, direction: Direction = "gain") -> Changes:
        """Images and objects that a variant gets better (or worse) than the original."""
        self._check_variant(variant)
        sign = 1 if direction == "gain" else -1
        margin, floor = self.settings["margin"], self.settings["floor"]
        base = self.images_ap[ORIGINAL]
        change = sign * (self.images_ap[variant] - base)
        before, after = self.score[ORIGINAL], self.score[variant]
        if sign < 0:
            before, after = after, before
        appeared = np.isnan(before) & ~np.isnan(after)
        position = {image_id: k for k, image_id in enumerate(self.image_ids)}
        owner = np.array([position[o["image_id"]] for o in self.objects], dtype=np.int64)
        strong = base >= floor  # False for NaN: an image without objects
        with np.errstate(invalid="ignore"):
            return Changes(
                images=_largest(change, (change > margin) & strong),
                images_any=_largest(change, change > 0),
                objects=_largest(after, appeared & (after > margin) & strong[owner]),
                objects_any=_largest(after, appeared),
            )

    def changed_by_control(self) -> dict[Direction, NDArray[np.int64]]:
        """Positions of the images that the control gets better or worse by any margin."""
        if self.control is None:
            return {}
        change = self.control - self.images_ap[ORIGINAL]
        return {"gain": np.flatnonzero(change > 0), "drop": np.flatnonzero(change < 0)}

    def scalars(self) -> dict[str, float]:
        out = {
            self._tag(metric, name): float(values[k])
            for names, found in (
                (METRICS, self.metrics),
                (self.recall_names, self.recalls),
                (GROUPS, self.groups),
            )
            for k, metric in enumerate(names)
            for name, values in found.items()
        }
        for name in self.variants:
            for what, (value, *_) in self.shares(name).items():
                out[self._tag(what, name)] = value
        for name in self.variants[1:]:
            for direction in _DIRECTIONS:
                changes = self.changes(name, direction)
                for what in ("images", "objects"):
                    count, anything = getattr(changes, what), getattr(changes, f"{what}_any")
                    out[self._tag(f"{what}_{direction}", name)] = float(len(count))
                    out[self._tag(f"{what}_{direction}_any", name)] = float(len(anything))
        for direction, images in self.changed_by_control().items():
            out[self._tag(f"images_{direction}_any", CONTROL)] = float(len(images))
        return out

    def labels(self) -> dict[str, Label]:
        radii = dict(zip(self.variants[1:], 2 * self.radii, strict=True))
        out = {}
        kind = "" if self.iou_type == "bbox" else f"{OF[self.iou_type][:-1]} "
        groups = GROUPS if self.groups else ()
        for metric in (*METRICS, *self.recall_names, *groups, *SHARES):
            for name in self.variants:
                part, radius = name.partition("_")[0], radii.get(name)
                tag = self._tag(metric, name)
                out[tag] = accuracy_label(part, radius, quantity=f"{kind}{metric}")
        margin = f"the audit's margin ({self.settings['margin']:g})"
        for name, radius in radii.items():
            part = name.partition("_")[0]
            for direction, verb in zip(_DIRECTIONS, ("gain", "lose"), strict=True):
                for what in ("images", "objects"):
                    for any_, by in (("", margin), ("_any", "any margin")):
                        text = f"{what} that {verb} on {part.upper()}({radius:g}) by {by}"
                        tag = self._tag(f"{what}_{direction}{any_}", name)
                        out[tag] = Label(text, "count", part, radius)
        verbs = dict(zip(_DIRECTIONS, ("gain", "lose"), strict=True))
        for direction in self.changed_by_control():
            text = f"images that {verbs[direction]} without frequencies that nobody sees"
            out[self._tag(f"images_{direction}_any", CONTROL)] = Label(text, "count", CONTROL)
        return out

    def intervals(self) -> dict[str, tuple[float, float]]:
        bounds = {
            self._tag(metric, name): (float(low), float(high))
            for name, rows in self.intervals_of.items()
            for metric, (low, high) in zip(METRICS, rows, strict=True)
        }
        for name in self.variants:
            for what, (_, low, high) in self.shares(name).items():
                bounds[self._tag(what, name)] = (low, high)
        return {tag: pair for tag, pair in bounds.items() if np.isfinite(pair[0])}

    def arrays(self) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {
            "radii": np.asarray(self.radii, dtype=np.float64),
            "metrics": np.asarray(METRICS),
            "class_ids": np.asarray(sorted(self.truth.categories)),
            "image_ids": np.asarray(self.image_ids),
            **({} if self.control is None else {"control_image": self.control}),
            "object_ids": np.asarray([o["id"] for o in self.objects], dtype=np.int64),
        }
        count = len(self.radii)
        parts = {"lfc": self.variants[1 : 1 + count], "hfc": self.variants[1 + count :]}
        for suffix, values in (
            ("", self.metrics),
            ("_class", self.classes),
            ("_image", self.images_ap),
            ("_object", self.score),
            ("_recall", self.recalls),
            ("_frequency", self.groups),
        ):
            if not values:  # LVIS's alone; or a result of an older version
                continue
            out[f"original{suffix}"] = values[ORIGINAL]
            for part, names in parts.items():
                out[f"{part}{suffix}"] = np.stack([values[n] for n in names])
        for part, names in {"original": (), **parts}.items():
            bounds = np.stack([self.intervals_of[n] for n in names or (ORIGINAL,)])
            out[f"{part}_lower"], out[f"{part}_upper"] = (
                bounds[..., k] if names else bounds[0, :, k] for k in (0, 1)
            )
        for part, names in parts.items():
            out[f"{part}_difference"] = out[part][:, :3] - out["original"][:3]
            bounds = np.stack([self.difference_intervals[n] for n in names])
            out[f"{part}_difference_lower"] = bounds[..., 0]
            out[f"{part}_difference_upper"] = bounds[..., 1]
            for direction in _DIRECTIONS:
                changes = [self.changes(n, direction) for n in names]
                for suffix in ("", "_any"):
                    counts = [len(getattr(c, f"images{suffix}")) for c in changes]
                    out |= proportion_arrays(f"{part}_{direction}{suffix}", counts, self.samples)
        for part, names in {"original": (ORIGINAL,), **parts}.items():
            right, shown, objects = np.array([self._points[n].counts for n in names]).T
            f1 = np.array([self.shares(n)["F1"] for n in names]).T
            found = dict(
                zip((f"{part}_f1", f"{part}_f1_lower", f"{part}_f1_upper"), f1, strict=True)
            )
            found |= proportion_arrays(f"{part}_precision", right, shown)
            found |= proportion_arrays(f"{part}_recall", right, objects)
            errors = [self.errors()[n] for n in names]
            found[f"{part}_errors"] = np.stack([one.cost for one in errors])
            found[f"{part}_errors_found"] = np.stack([one.counts for one in errors])
            out |= {k: v[0] if part == ORIGINAL else v for k, v in found.items()}
        return out

    def axes(self) -> dict[str, dict[str, Any]]:
        radius = {"name": "radius", "unit": self.settings["units"], "values": list(self.radii)}
        metric = {"name": "metric", "values": list(METRICS)}
        one = {"unit": "AP", "hfc_background": self.background, "rescale": self.rescale}
        out: dict[str, dict[str, Any]] = {"original": {**one, "axes": [metric]}}
        for part in ("lfc", "hfc"):
            for suffix in ("", "_lower", "_upper"):
                out[f"{part}{suffix}"] = {**one, "axes": [radius, metric]}
            three = {"name": "metric", "values": list(METRICS[:3])}
            for suffix in ("", "_lower", "_upper"):
                out[f"{part}_difference{suffix}"] = {**one, "axes": [radius, three]}
        kind = {"name": "kind", "values": list(KINDS)}
        for part, axes in (("original", [kind]), ("lfc", [radius, kind]), ("hfc", [radius, kind])):
            out[f"{part}_errors"] = {**one, "unit": "AP50 lost", "axes": axes}
            out[f"{part}_errors_found"] = {**one, "unit": "count", "axes": axes}
        return out

    def to_dict(self) -> dict[str, Any]:
        out = super().to_dict()
        out["threshold"] = self.threshold
        out["notes"] = list(self.notes)
        out["caveats"] = list(self.caveats)
        out["skipped"] = {str(k): v for k, v in self.skipped.items()}
        out["categories"] = {str(k): v for k, v in self.truth.categories.items()}
        return out

    def figure_inches(self) -> tuple[float, float]:
        return (7.4, 4.4) if len(self.radii) == 1 else (12.4, 4.0)

    def draw_panels(self, figure: Any) -> None:
        """AP against radius for LFC and HFC, overall and by size (bars for a single radius)."""
        from .figures import draw_by_radius

        draw_by_radius(figure, self)

    def errors(self) -> dict[str, Errors]:
        """Mistakes by kind and what each kind costs, by variant; computed once."""
        return self._errors

    @cached_property
    def _errors(self) -> dict[str, Errors]:
        most = self.settings["max_dets"]
        return {
            name: errors_of(
                self.truth,
                self.image_ids,
                self.predictions[name],
                max_dets=most,
                iou_type=self.iou_type,
            )
            for name in self.variants
        }

    def operating_point(self, variant: str, threshold: float | None = None) -> OperatingPoint:
        """Precision, recall, F1 and confusion matrix from a score on (None: :attr:`threshold`)."""
        if threshold is None:
            return self._points[variant]
        found = self.predictions[variant]
        return operating_point(self.truth, self.image_ids, found, threshold, self.iou_type)

    @cached_property
    def _points(self) -> dict[str, OperatingPoint]:
        return {name: self.operating_point(name, self.threshold) for name in self.variants}

    def shares(self, variant: str) -> dict[str, tuple[float, float, float]]:
        """F1, precision and recall at :attr:`threshold`, each with its 95 % interval.

        That of F1 is by bootstrap over images, at this threshold, and NaN without; the others are
        Wilson's.
        """
        return self._shares[variant]

    @cached_property
    def _shares(self) -> dict[str, dict[str, tuple[float, float, float]]]:
        count = len(self.image_ids)
        replicates = self.settings["bootstrap"] if count > 1 else 0
        weights = bootstrap_weights(count, replicates, self.settings["seed"])
        out = {}
        for name, point in self._points.items():
            right, shown, objects = point.counts
            drawn = weights if right else weights[:0]  # no replicate knows more than that
            out[name] = {"F1": (point.f1, *point.f1_interval(drawn))}
            for what, of in (("precision", shown), ("recall", objects)):
                low, high = (float(v) for v in wilson(right, of))
                out[name][what] = (right / of if of else float("nan"), low, high)
        return out

    def operating_figure(self) -> Figure:
        """Precision, recall and F1 against radius, and the confusions of the main variant."""
        from .figures import operating_figure

        return operating_figure(self)

    def errors_figure(self) -> Figure:
        """What each kind of mistake costs in AP at IoU 0.5, against radius."""
        from .figures import errors_figure

        return errors_figure(self)

    def scatter_figure(self, variant: str | None = None) -> Figure:
        """AP of each image alone, original against a variant (None: :attr:`main_variant`)."""
        from .figures import scatter_figure

        return scatter_figure(self, self._check_variant(variant or self.main_variant))

    def examples_figure(
        self, direction: Direction = "gain", *, variant: str | None = None, top: int = 3
    ) -> Figure | None:
        """Images with the largest gains or drops, original beside the variant.

        Returns:
            None if there is no such image.

        Raises:
            InputError: no data set to read the images from.
        """
        from .examples import examples_figure

        variant = self._check_variant(variant or self.main_variant)
        changes = self.changes(variant, direction)
        chosen = changes.images if len(changes.images) else changes.images_any
        if not len(chosen):
            return None
        if self.dataset is None:
            raise InputError(
                "examples_figure: expected a data set to read the images from, got none; use "
                "result.reading(CocoImages(…))"
            )
        return examples_figure(self, self.dataset, variant, [int(k) for k in chosen[:top]])

    def images(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "hfc_detection/by_radius": self.figure(),
            "hfc_detection/by_image": self.scatter_figure(),
            "hfc_detection/errors": self.errors_figure(),
        }
        if self.dataset is not None:
            for direction in _DIRECTIONS:
                figure = self.examples_figure(direction)
                if figure is not None:
                    out[f"hfc_detection/examples_{direction}"] = figure
        return out

    def table(self) -> tuple[list[str], list[list[str]]]:
        unit = "cycles/image" if self.settings["units"] == "cycles" else "Nyquist"
        heads = [
            f"detected on (r in {unit})",
            "AP [95 % interval]",
            "change [95 % interval]",
            "AP50",
            "AP75",
        ]
        heads += ["small", "medium", "large", *self.recall_names[-1:]]
        heads += ["rare", "common", "frequent"] if self.groups else []
        heads += ["better images", "worse images"]
        heads += [f"F1 at score ≥ {self.threshold:.2f}", "precision", "recall"]
        rows = []
        for name in self.variants:
            recall = self.recalls[name][-1:] if self.recalls else ()
            groups = self.groups.get(name, ())
            values = [_points(v) for v in (*self.metrics[name], *recall, *groups)]
            change = gains = drops = ""
            if name != ORIGINAL:
                low, high = self.difference_intervals[name][0]
                delta = self.metrics[name][0] - self.metrics[ORIGINAL][0]
                change = _with_interval(delta, low, high)
                gains, drops = (self._counted(name, d) for d in _DIRECTIONS)
            values[0] = _bounded(self.metrics[name][0], *self.intervals_of[name][0])
            right, *of = self._points[name].counts
            shares = [_bounded(*share) for share in self.shares(name).values()]
            shares[1:] = [f"{s} ({right} of {n})" for s, n in zip(shares[1:], of, strict=True)]
            rows.append([self.label(name), values[0], change, *values[1:], gains, drops, *shares])
        return heads, rows

    def label(self, variant: str) -> str:
        """A variant in words: ``LFC, r = 128``."""
        if variant == ORIGINAL:
            return "original"
        part = variant.partition("_")[0]
        radius = self.radii[(self.variants.index(variant) - 1) % len(self.radii)]
        fed = [f"{self.background} background"] if part == "hfc" else []
        fed += ["rescaled"] if self.rescale else []
        return f"{part.upper()}, r = {radius:g}" + (f" ({', '.join(fed)})" if fed else "")

    def verdict(self) -> str:
        def at(name: str) -> str:
            delta = self.metrics[name][0] - self.metrics[ORIGINAL][0]
            return (
                f"{_points(self.metrics[name][0])} % on {self.label(name)} "
                f"({_with_interval(delta, *self.difference_intervals[name][0])})"
            )

        count = len(self.radii)
        middle = count // 2
        low, high = self.variants[1 + middle], self.variants[1 + count + middle]
        better, worse = self.changes(low), self.changes(low, "drop")
        lower, upper = (float(v) for v in wilson(len(better.images_any), self.samples))
        share = percent(len(better.images_any) / self.samples, lower, upper)
        text = (
            f"AP is {_points(self.metrics[ORIGINAL][0])} % on the original images, {at(low)} and "
            f"{at(high)}; {len(better.images_any)} of {self.samples} images ({share}) have a "
            f"higher AP on the LFC, {len(better.images)} of them by more than "
            f"{self.settings['margin']:g} from an original AP of at least "
            f"{self.settings['floor']:g}, and {len(worse.images_any)} a lower one "
            f"({self._null(better.images_any, worse.images_any)})."
        )
        if self.settings.get("at") == "input":
            text += " The filter acted on the detector's resized input."
        return text + "".join(f" Note: {note}." for note in self.notes)

    def _null(self, better: NDArray[np.int64], worse: NDArray[np.int64]) -> str:
        """What the images that gain are held against, in words."""
        control = self.changed_by_control()
        if not control:
            balance = sign_test(len(better), len(worse))
            return f"noise alone would raise as many as it lowers: sign test, p = {balance:.2g}"
        other = control["gain"]
        p = sign_test(len(np.setdiff1d(better, other)), len(np.setdiff1d(other, better)))
        said = "more" if len(better) > len(other) else "fewer"
        if p >= 0.05:
            said = "no clear difference"
        return (
            f"a filter that nobody sees, of 1/255, raises {len(other)} and lowers "
            f"{len(control['drop'])}: {said}, McNemar's test on the gains, p = {p:.2g}"
        )

    def save_all(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write everything: JSON, figures, CSV per class, image and object, COCO results, FiftyOne.

        Returns:
            The files.

        Raises:
            InputError: a directory that cannot be written.
        """
        from ..core.drawing import png

        out = Path(directory)
        files = [self.save(out / f"{self.name}.json")]
        pictures = {
            self.name: self.figure(),
            "by_image": self.scatter_figure(),
            "errors": self.errors_figure(),
            "operating_point": self.operating_figure(),
        }
        if self.dataset is not None:
            for direction in _DIRECTIONS:
                examples = self.examples_figure(direction)
                if examples is not None:
                    pictures[f"{direction}s"] = examples
        for name, figure in pictures.items():
            files.append(write_atomically(out / f"{name}.png", png(figure)))
        for name, rows in FILES.items():
            files.append(write_atomically(out / name, rows(self).encode()))
        files += write_samples(self, out / "fiftyone")
        for name in self.variants:
            text = json.dumps(plain(to_results(self.predictions[name])))
            files.append(write_atomically(out / f"results_{name}.json", text.encode()))
        return files

    def _counted(self, name: str, direction: Direction) -> str:
        changes = self.changes(name, direction)
        return f"{len(changes.images)} (any: {len(changes.images_any)})"

    def _check_variant(self, variant: str) -> str:
        if variant not in self.variants[1:]:
            raise InputError(
                f"variant: expected one of {', '.join(self.variants[1:])}, got {variant!r}"
            )
        return variant

    def _title(self) -> str:
        sign = "≤" if self.settings["closed"] else "<"
        left_out = f", {len(self.skipped)} broken ones left out" if self.skipped else ""
        return (
            f"Detection audit, {self.samples} images with {len(self.objects)} objects{left_out}, "
            f"LFC holds d {sign} r of the {self.place}{fourier.rescale_note(self.rescale)}, "
            f"at most {self.settings['max_dets']} detections per image and class; AP"
            f"{'' if self.iou_type == 'bbox' else f' of {OF[self.iou_type]}'} in %"
        )


def _notes(
    settings: Mapping[str, Any],
    truth: GroundTruth,
    image_ids: Sequence[ImageId],
    predictions: Mapping[str, Mapping[ImageId, Detections]],
    skipped: Mapping[ImageId, str],
) -> tuple[str, ...]:
    notes = list(truth.notes)
    if skipped:
        notes.append(f"{len(skipped)} images were left out: {named(list(skipped.values()))}")
    sizes = {(truth.images[i].get("height"), truth.images[i].get("width")) for i in image_ids}
    known = {s for s in sizes if all(isinstance(v, int) and v > 0 for v in s)}
    if known and known == sizes:
        reach = max(_corner(*size, settings["units"]) for size in known)
        beyond = [r for r in settings["radii"] if r > reach or (settings["closed"] and r == reach)]
        if beyond:
            notes.append(
                f"r = {', '.join(f'{r:g}' for r in beyond)} is beyond the corner of every image "
                f"({reach:.4g}): LFC is the original and HFC holds nothing"
            )
    unknown, nothing, ids = Counter[str](), [], set()
    for name, found in predictions.items():
        here = [found[i].labels for i in image_ids if i in found]
        labels = np.concatenate(here) if here else np.zeros(0, dtype=np.int64)
        other = labels[~np.isin(labels, list(truth.categories))]
        unknown[name] = len(other)
        ids |= set(other.tolist())
        if not len(labels):
            nothing.append(name)
    if ids:
        notes.append(
            f"{unknown.total()} detections on {', '.join(+unknown)} are of categories that the "
            f"annotations do not have ({named(sorted(ids))}) and do not count"
        )
    if nothing:
        notes.append(f"nothing at all was detected on {', '.join(nothing)}")
    return tuple(notes)


def _corner(height: Any, width: Any, units: fourier.Units) -> float:
    """:func:`hfc_probe.fourier.corner` without the map of all distances."""
    half = (height // 2, width // 2)
    if units == "nyquist":
        return float(np.hypot(half[0] / (height / 2), half[1] / (width / 2)))
    return float(np.hypot(*half))


def sign_test(better: int, worse: int) -> float:
    """Two-sided p of as uneven counts if every change were as likely a gain as a drop.

    >>> round(sign_test(36, 30), 2), sign_test(0, 0)
    (0.54, 1.0)
    """
    n, term, tail = int(better + worse), 1, 0
    for k in range(min(better, worse) + 1):  # whole numbers: exact, however many
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, float(2 * tail / 2**n))


def _largest(change: NDArray[np.float64], chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    positions = np.flatnonzero(chosen)
    return positions[np.argsort(-change[positions], kind="stable")]


def _points(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "–"


def _bounded(value: float, low: float, high: float) -> str:
    interval = f" [{_points(low)}, {_points(high)}]" if np.isfinite([value, low]).all() else ""
    return _points(value) + interval


def _with_interval(delta: float, low: float, high: float) -> str:
    if not np.isfinite(delta):
        return "–"
    text = f"{100 * delta:+.1f}"
    if np.isfinite(low):
        text += f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return text.replace("-", "−")
