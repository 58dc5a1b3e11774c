"""What Fourier noise of each frequency costs a detector, image by image.

Long because a measurement is one file: settings, passes, result, sentence and figure.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import fourier
from ..core.drawing import png
from ..core.labels import Label
from ..core.result import Arrays
from ..data.pixels import PixelSpace
from ..data.samples import Samples, check_limit
from ..ground import checks
from ..ground.errors import InputError
from ..ground.files import write_atomically
from ..measurements.fourier_heatmap import FourierHeatmap, FourierHeatmapResult
from ..measurements.fourier_heatmap.engine import Engine, Outcome, direction_signs
from ..measurements.fourier_heatmap.grid import Grid
from ..measurements.fourier_heatmap.run import Run
from ..model.isolation import device_of, unwrap
from ..model.subject import Subject
from ..ranks import RankGroup, together
from ..version import __version__
from .audit import Detector, order, read_batch, undisturbed
from .coco import (
    DetectionDataset,
    Detections,
    GroundTruth,
    ImageId,
    check_categories,
    detections_from,
)
from .identity import detector_identity, known_as, same_answer
from .operating_point import best_threshold
from .pictures import BrokenImageError
from .scoring import KINDS, ImageScoreKind, scored_images, scorer

_SIGNS_PERIOD = 1 << 20  # so that signs depend on the frequency alone, not on image sizes


@dataclass(frozen=True)
class DetectionHeatmap:
    """Mean score that Fourier noise of each frequency (i, j) costs a detector.

    Every image is shown with ``clip(x + s·v·U_ij, 0, 1)``, made at its own size, and what the
    detector finds in it is given one number. The map shows by how much the mean of that number
    over the images falls, for an n×n window of frequencies around DC. i and j are in cycles of
    the image, whatever its size: (3, 0) is three waves over the height of each. Every pair ±(i, j)
    is measured once, and the sign s is drawn per image and channel.

    Args:
        crop: n, at most the shortest side of all images.
        score: ``"AP"``, the AP of an image alone; ``"recall"``, the share of its objects found at
            IoU 0.5; ``"IoU"``, the mean over its objects of the IoU with the box that finds them,
            0 for a missed one. Images without objects are left out.
        norm_per_pixel: root mean square of the noise in one channel, before the clip: v is this
            times √(H·W). 0.07 is Yin's 15.7 at 224×224.
        forwards: number of images that the detector is shown, all included, for a smooth model
            over frequencies and images, as of :class:`FourierHeatmap`; None: every image under
            every noise.
        stride: measure every n-th frequency of each axis, DC among them.
        samples: maximum number of images, a seeded random choice.
        threshold: the least score of a detection that counts for recall and IoU; None: the one at
            which F1 is largest without noise.
        max_dets: detections that count, per image and, for AP, class.
        ignore_unknown: leave out detections of categories that the annotations do not have.
        seed: of signs, choice and order of the images.

    Raises:
        InputError: settings that cannot work.

    Source: Yin et al., NeurIPS 2019, §3, with a detector's score in place of the error.
    """

    crop: int = 31
    score: ImageScoreKind = "AP"
    norm_per_pixel: float = 0.07
    forwards: int | None = None
    stride: int = 1
    samples: int = 100
    threshold: float | None = None
    max_dets: int = 100
    ignore_unknown: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        checks.plain(self)
        checks.choice("score", self.score, KINDS)
        for name in ("crop", "stride", "samples", "max_dets"):
            checks.keep(self, **{name: checks.whole(name, getattr(self, name))})
        if self.forwards is not None:
            checks.keep(self, forwards=checks.whole("forwards", self.forwards))
        norm = checks.number("norm_per_pixel", self.norm_per_pixel, 0, 1, open_low=True)
        checks.keep(self, norm_per_pixel=norm)
        if self.threshold is not None:
            checks.keep(self, threshold=checks.number("threshold", self.threshold, 0, 1))

    @property
    def grid(self) -> Grid:
        """The cells of the map."""
        # Any size beyond the window's, so that no frequency of it is its own mirror but DC.
        size = 2 * self.crop + 1
        return Grid(size, size, self.crop, self.crop, self.stride)

    def cost(self, images: int) -> int:
        """How many images the detector is shown, of that many to look at."""
        images = min(images, self.samples)
        whole = images * (1 + len(self.grid.directions)) + 2
        return whole if self.forwards is None else min(whole, self.forwards)

    def measure(
        self,
        detector: Detector,
        dataset: DetectionDataset,
        *,
        model: nn.Module | None = None,
        device: torch.device | str | None = None,
        batch_size: int = 1,
        limit: int | None = None,
        resume: str | os.PathLike[str] | None = None,
        skip_broken: bool = False,
        progress: bool = False,
        identity: Mapping[str, Any] | None = None,
    ) -> DetectionHeatmapResult:
        """Measure the map; arguments as of :meth:`DetectionAudit.measure`.

        ``resume`` keeps the scores of an unfinished map, at most 20 seconds old, for the next call;
        those of another detector, other images or other settings are not used, and a warning says
        so. All images without noise are shown again: their mean score tells another detector.

        Raises:
            InputError: a detector or data that cannot be used, a window larger than an image,
                fewer ``forwards`` than a map takes, a detector that answers differently to
                identical calls.
        """
        if not callable(detector):
            raise InputError(
                "detector: expected something to call with a list of images, got "
                f"{type(detector).__name__}"
            )
        began = time.perf_counter()
        batch_size = checks.whole("batch_size", batch_size)
        module = detector if isinstance(detector, nn.Module) else model
        where = torch.device(device or (device_of(module) if module else "cpu"))
        identity = identity or detector_identity(detector, module)
        described = {f.name: getattr(self, f.name) for f in fields(self)}
        with together(json.dumps({**described, "weights": identity["weights"]})) as ranks:
            images = self._images(dataset, limit, skip_broken)
            self._check_effort(len(images))
            with undisturbed(detector, module) as run:
                subject = Subject(
                    unwrap(module) if module is not None else nn.Module(),
                    _placeholders(len(images), next(iter(images.values())).shape[0]),
                    PixelSpace(),
                    where,
                    batch_size,
                    show_progress=progress and ranks.leads,
                    ranks=ranks if isinstance(ranks, RankGroup) else None,
                )
                engine = _SceneEngine(subject, run, images, dataset.truth, self)
                clean = engine.clean()
                engine.about = json.dumps(
                    [described, {**identity}, engine.seen()], sort_keys=True, default=str
                )
                settings = FourierHeatmap(
                    norm=self.norm_per_pixel,
                    samples=len(images),
                    crop=self.crop,
                    stride=self.stride,
                    forwards=self.forwards,
                    seed=self.seed,
                    checkpoint=None if resume is None else Path(resume) / "heatmap.npz",
                )
                work = Run(settings, engine, self.grid, self.norm_per_pixel, began)
                work.clean = clean
                found = work.model() if self.forwards is not None else work.exhaustive()
        own = {f.name: getattr(found, f.name) for f in fields(found)}
        own["settings"] = described | {
            "estimator": found.estimator,
            "norm": self.norm_per_pixel,
        }
        own["provenance"] = {
            "version": __version__,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": identity["detector"],
            "weights": known_as(identity),
            "passes": found.passes,
            **({} if self.score == "AP" else {"threshold": engine.threshold}),
            "seconds": round(time.perf_counter() - began, 3),
            "device": str(where),
            "caveats": list(subject.caveats),
        }
        return DetectionHeatmapResult(
            **own, image_ids=tuple(images), clean_scores=engine.clean_scores
        )

    def _images(
        self, dataset: DetectionDataset, limit: int | None, skip_broken: bool
    ) -> dict[ImageId, Tensor]:
        """Images with objects that can be read, as 8 bits if they came from 8 bits."""
        chosen = scored_images(dataset.truth, sorted(dataset.truth.images, key=order))
        most = min(self.samples, check_limit(limit) or self.samples)
        if most < len(chosen):
            chosen = sorted(random.Random(self.seed).sample(chosen, most), key=order)
        images: dict[ImageId, Tensor] = {}
        for image_id in chosen:
            (image,) = read_batch(dataset, [image_id])
            if isinstance(image, BrokenImageError):
                if not skip_broken:
                    raise image
                continue
            if min(image.shape[-2:]) < self.crop:
                height, width = image.shape[-2:]
                raise InputError(
                    f"crop: expected at most the sides of every image, got {self.crop} and "
                    f"image {image_id} of {height}×{width}"
                )
            images[image_id] = _small(image)
        if not images:
            raise InputError(
                "dataset: expected an image with an annotated object that can be read, got none"
            )
        return images

    def _check_effort(self, count: int) -> None:
        least = count + 2 + 2 * len(self.grid.directions)
        if self.forwards is not None and self.forwards < least:
            raise InputError(
                f"forwards: expected at least {least} ({count} images without noise, one of them "
                f"three times, and 2 for each of {len(self.grid.directions)} directions), got "
                f"{self.forwards}; use fewer images, a smaller crop or a stride"
            )


def _small(image: Tensor) -> Tensor:
    eight = (image * 255).round()
    exact = bool(((image * 255 - eight).abs() < 1e-3).all())
    return eight.to(torch.uint8) if exact else image


def _placeholders(count: int, channels: int) -> Samples:
    """What the estimators are given in place of the images, which are of several sizes."""
    return Samples(torch.zeros(count, channels, 1, 1), torch.zeros(count, dtype=torch.long))


class _SceneEngine(Engine):
    """Passes of images of any size through a detector."""

    differences = True

    def __init__(
        self,
        subject: Subject,
        run: Detector,
        images: Mapping[ImageId, Tensor],
        truth: GroundTruth,
        settings: DetectionHeatmap,
    ) -> None:
        super().__init__(
            subject,
            subject.samples,
            settings.grid.directions,
            norm=settings.norm_per_pixel,
            seed=settings.seed,
        )
        self._run, self._pictures, self._truth = run, images, truth
        self._ids, self._asked = list(images), settings
        self.threshold = settings.threshold or 0.0
        self.clean_scores = np.zeros(0)

    def clean(self) -> Outcome:
        """All images without noise; checks that the detector answers the same twice."""
        first, again = (self._detect([0], None)[0] for _ in range(2))
        if not same_answer({"": first}, {"": again}):
            raise InputError(
                "detector: expected the same boxes for the same image, got others in a second "
                "call; look for dropout or noise that ignores model.eval()"
            )
        size = self.subject.batch_size
        starts = range(0, len(self._ids), size)
        jobs = [list(range(k, min(k + size, len(self._ids)))) for k in starts]
        found = [one for batch in self.subject.distribute(jobs, self._plain) for one in batch]
        self.forwards += len(found)
        for one in found if not self._asked.ignore_unknown else ():
            check_categories(one, self._truth, "original")
        by_image = dict(zip(self._ids, found, strict=True))
        if self._asked.threshold is None and self._asked.score != "AP":
            self.threshold = best_threshold(self._truth, self._ids, by_image) or 0.0
        self._score = scorer(
            self._truth,
            self._ids,
            self._asked.score,
            threshold=self.threshold,
            max_dets=self._asked.max_dets,
        )
        scores = [self._score(image_id, one) for image_id, one in by_image.items()]
        self.clean_scores = np.array(scores)
        if not self.clean_scores.any():
            raise InputError(
                f"detector: expected some object to be found without noise, got a mean "
                f"{self._asked.score} of 0 on {len(self._ids)} images; look at what the detector "
                "returns with DetectionAudit"
            )
        nothing = torch.zeros(len(scores))
        return _outcome(nothing, torch.tensor(scores, dtype=torch.float32))

    def seen(self) -> list[object]:
        """The images, their objects and the answer without noise, in a few letters."""
        digest = hashlib.sha256()
        for image_id, picture in self._pictures.items():
            digest.update(f"{image_id} {picture.shape} {picture.dtype}".encode())
            digest.update(picture.numpy().tobytes())
        chosen = [a for a in self._truth.annotations if a["image_id"] in self._pictures]
        digest.update(repr(chosen).encode())
        # Rounded: some devices answer a little differently to the same image.
        return [digest.hexdigest(), round(float(self.clean_scores.mean()), 3)]

    def run(self, cells: NDArray[np.int64], images: NDArray[np.int64]) -> Outcome:
        lost = []
        for k in range(0, len(cells), self.batch_size):
            part = images[k : k + self.batch_size].tolist()
            found = self._detect(part, cells[k : k + self.batch_size].tolist())
            for image, one in zip(part, found, strict=True):
                lost.append(self.clean_scores[image] - self._score(self._ids[image], one))
        values = torch.tensor(lost, dtype=torch.float32)
        return _outcome(values, values)

    def _plain(self, images: list[int]) -> list[Detections]:
        found = self._detect(images, None)
        self.forwards -= len(found)  # counted as they come in
        return found

    def _detect(self, images: Sequence[int], cells: Sequence[int] | None) -> list[Detections]:
        shown = []
        for k, image in enumerate(images):
            picture = self._pictures[self._ids[image]].to(self.device)
            if picture.dtype == torch.uint8:
                picture = picture.to(torch.float32) / 255
            shown.append(picture if cells is None else self._noisy(picture, cells[k], image))
        self.forwards += len(shown)
        return detections_from(self._run(shown), len(shown))

    def _noisy(self, picture: Tensor, cell: int, image: int) -> Tensor:
        height, width = picture.shape[-2:]
        wave = fourier.basis(*self.directions[cell], height, width, device=self.device)
        signs = self._signs[cell][image].to(self.device, picture.dtype)
        noise = self.norm * math.sqrt(height * width) * wave.to(picture.dtype)
        return (picture + signs * noise).clamp_(0, 1)

    def _direction_signs(self, cell: int) -> Tensor:
        i, j = self.directions[cell]
        count, channels = self.samples.images.shape[:2]
        period = _SIGNS_PERIOD
        signs = direction_signs(self.seed, i, j, period, period, count, channels)
        return signs.to(torch.int8)


def _outcome(lost: Tensor, margin: Tensor) -> Outcome:
    return Outcome(torch.zeros(len(lost), 0, dtype=torch.bool), lost, margin)


@dataclass(frozen=True, eq=False)
class DetectionHeatmapResult(FourierHeatmapResult):
    """Mean score lost under noise of each frequency.

    ``arrays()``, all maps ``(n, n)`` with DC at ``[n // 2, n // 2]``, the same at ±(i, j):

    - ``lost``, ``lower``, ``upper``: mean over images of the score without noise less the score
      under it, in [−1, 1], with its 95 % interval. ``count``: images seen under that noise;
    - ``clean_score``, ``clean_score_lower``, ``clean_score_upper``: mean over images without
      noise, with its 95 % normal interval over images; ``clean_scores`` (I,), ``image_ids`` (I,).

    Attributes:
        image_ids: images with objects that were looked at.
        clean_scores: the score of each without noise.
    """

    inches: ClassVar[tuple[float, float]] = (10.8, 4.7)

    image_ids: tuple[ImageId, ...] = field(kw_only=True)
    clean_scores: NDArray[np.float64] = field(kw_only=True)

    @property
    def section(self) -> str:
        return f"hfc_detection_heatmap/{self.settings['score']}"

    @property
    def group(self) -> str:
        return f"{self.name}/{self.settings['score']}"

    @property
    def unit(self) -> str:
        return f"{self.settings['score']} lost"

    @property
    def noise(self) -> str:
        return f"RMS {self.norm:g} per pixel"

    @property
    def without_noise(self) -> str:
        return f"of {self.clean_score()[0]:.2f} without noise"

    def clean_score(self) -> tuple[float, float, float]:
        """Mean score without noise, and its 95 % interval over images like these."""
        mean, count = float(self.clean_scores.mean()), len(self.clean_scores)
        if count < 2:
            return mean, float("nan"), float("nan")
        half = 1.96 * float(self.clean_scores.std(ddof=1)) / count**0.5
        return mean, mean - half, mean + half

    def arrays(self) -> Arrays:
        clean = zip(("", "_lower", "_upper"), self.clean_score(), strict=True)
        return {
            "lost": self.error,
            "lower": self.lower,
            "upper": self.upper,
            "count": self.count,
            **{f"clean_score{end}": np.asarray(value) for end, value in clean},
            "clean_scores": self.clean_scores,
            "image_ids": np.asarray(self.image_ids),
        }

    def axes(self) -> dict[str, dict[str, Any]]:
        found = super().axes()
        maps = {
            ("lost" if k == "error" else k): found[k] for k in ("error", "lower", "upper", "count")
        }
        clean = {**found["clean_error"], "unit": f"mean {self.settings['score']}"}
        axes = maps | {"clean_score": clean}
        return {name: {**one, "noise": self.noise} for name, one in axes.items()}

    def scalars(self) -> dict[str, float]:
        return {
            f"{self.section}/original": self.clean_score()[0],
            f"{self.section}/mean_lost": float(np.nanmean(self.error)),
            f"{self.section}/max_lost": float(np.nanmax(self.error)),
        }

    def intervals(self) -> dict[str, tuple[float, float]]:
        _, low, high = self.clean_score()
        return {f"{self.section}/original": (low, high)} if np.isfinite(low) else {}

    def labels(self) -> dict[str, Label]:
        score = self.settings["score"]
        texts = {
            "original": f"the mean {score} of single images without noise",
            "mean_lost": f"the mean {self.unit} to Fourier noise of {self.noise}",
            "max_lost": f"the largest {self.unit} to Fourier noise of {self.noise}",
        }
        unit = {"original": f"mean {score}"}
        return {f"{self.section}/{k}": Label(v, unit.get(k, self.unit)) for k, v in texts.items()}

    def save_all(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write the JSON and the figure; returns the files."""
        out = Path(directory)
        figure = write_atomically(out / f"{self.name}.png", png(self.figure()))
        return [self.save(out / f"{self.name}.json"), figure]

    def table(self) -> tuple[list[str], list[list[str]]]:
        heads, rows = super().table()
        clean = self._value(*self.clean_score())
        rows[0] = ["no noise", "", f"0 (mean {self.settings['score']} {clean})", str(self.samples)]
        return heads, rows

    def _value(self, value: float, lower: float | None = None, upper: float | None = None) -> str:
        if lower is None or upper is None or not np.isfinite(lower):
            return f"{value:.3f}".replace("-", "−")
        return f"{value:.3f} [{lower:.3f}, {upper:.3f}]".replace("-", "−")

    def _title(self) -> str:
        rows, columns = self.error.shape
        return (
            f"Detection heatmap {rows}×{columns}, {self.unit} to Fourier noise of {self.noise} and "
            f"channel, {self.samples} images, shown {self.passes} times ({self.made_by()})"
        )

    def verdict(self) -> str:
        (worst, *_), (best, *_) = self.extremes(1)
        i, j = self.frequencies()

        def at(cell: tuple[int, int]) -> str:
            found = (float(a[cell]) for a in (self.error, self.lower, self.upper))
            return f"({i[cell[0]]:+d}, {j[cell[1]]:+d}) with {self._value(*found)}"

        whole = f"of {self._value(self.clean_score()[0])} without noise"
        score = self.settings["score"]
        if self._intervals_disjoint(worst, best):
            said = (
                f"Noise of {self.noise} costs most {score} at {at(worst)} and least at {at(best)}, "
                f"{whole}."
            )
        else:
            said = (
                f"{self.samples} images do not tell which frequency of noise costs most {score}; "
                f"noise of {self.noise} costs up to {self._value(float(self.error[worst]))}, "
                f"{whole}."
            )
        return said + self._caution()


__all__ = ["DetectionHeatmap", "DetectionHeatmapResult"]
