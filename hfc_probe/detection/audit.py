"""A detector on original, low- and high-frequency images: one pass over a COCO data set.

Long because settings, the single pass and its continuation depend on one another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .. import fourier
from ..data.samples import check_limit
from ..ground import checks
from ..ground.errors import InputError, named
from ..ground.random_state import protected_rng
from ..model.isolation import device_of, first_tensor, isolated, unwrap
from ..ranks import together
from . import evaluation
from .coco import (
    IOU_TYPES,
    DetectionDataset,
    Detections,
    GroundTruth,
    ImageId,
    IouType,
    check_categories,
    detections_from,
)
from .identity import changed, detector_identity
from .overlap import MOST
from .pictures import BrokenImageError
from .placing import LOOKED, known_radii, placed
from .result import DetectionAuditResult
from .scoring import scored_images
from .signed import sign_doubt
from .store import Finished, PredictionStore
from .variants import (
    CONTROL,
    ORIGINAL,
    Background,
    Place,
    background_of,
    pixel_mean_of,
    run_variants,
    variant_names,
)

logger = logging.getLogger("hfc_probe")

Detector = Callable[[list[Tensor]], Sequence[Any]]
_ROUNDING = 1e-3


@dataclass(frozen=True)
class DetectionAudit:
    """Average precision of a detector on the original images, on LFC(r) and on HFC(r).

    Args:
        radii: cut-offs, increasing. In cycles per image a radius does not change when the
            detector resizes its input; the paper's is 128. ``"auto"``: 12, placed where the AP
            of LFC or HFC changes on a first look at 16 images.
        units: ``"cycles"`` per image, or ``"nyquist"``: i over H/2 and j over W/2, which
            cuts both axes of a non-square image at the same cycles per pixel.
        hfc_background: ``"zero"`` feeds the signed HFC as it is, so that a detector that
            subtracts a pixel mean does so from zero-mean images; ``"mean"`` adds that mean
            first, so that it sees zero-mean HFC. The AP differs a lot, and the paper does not
            say what its detector was fed.
        pixel_mean: what ``"mean"`` adds, one number per channel in the images' range; None:
            as the detector says (``pixel_mean``, or torchvision's ``transform.image_mean``).
        closed: LFC holds ``d <= r``, as the paper; False: ``d < r``, as its code for
            classification (there is none for detection).
        max_dets: detections per image and class that count; None: COCO's 100, for keypoints 20.
        margin: a change of AP (of an image) or score (of an object) up to this is no gain
            and no drop.
        floor: an image whose original AP is below this has no gains or drops: a weak model
            shows spurious ones. The paper's count, any higher AP, is given beside it.
        bootstrap: replicates over images for 95 % intervals; 0: none. Those of AP and its changes
            take half samples, that of F1 samples with replacement.
        ignore_unknown: leave out detections whose category id the annotations do not have,
            as COCOeval does, instead of stopping. Those of COCO's 91 ids that its 80 categories
            leave unused, which torchvision's detectors know, are always left out. A note counts
            them.
        control: also show each image without the highest frequencies of 1/255 root mean square in
            all, which nobody sees. The images whose AP that raises are what gains on the LFC have
            to outnumber; without it they are held against the drops.
        seed: of the replicates and of the choice under ``limit``.
        at: where the filter acts: on the original ``"image"``, as the paper's r is in cycles of the
            image, or on the detector's ``"input"``, resized already, where that can be reached
            (detectron2). With ``units="nyquist"`` the two are different filters.
        rescale: ``"max"`` divides every image that the detector is shown, the original too, by
            its own maximum and multiplies it by full scale, as the paper's code does for
            classification; None feeds them as they are.
        iou_type: what is compared with the annotations, in COCO's words: ``"bbox"``; ``"segm"``,
            instance masks by their IoU; ``"keypoints"``, by their object keypoint similarity.

    Raises:
        InputError: settings that cannot work.

    Source: Wang et al., CVPR 2020, §7 and Figures 8 and 9.

    >>> DetectionAudit(radii=(64, 128)).variants
    ('original', 'lfc_r64', 'lfc_r128', 'hfc_r64', 'hfc_r128')
    """

    radii: tuple[float, ...] | Literal["auto"] = (128,)
    units: fourier.Units = "cycles"
    hfc_background: Background = "zero"
    pixel_mean: tuple[float, ...] | None = None
    closed: bool = True
    max_dets: int | None = None
    margin: float = 0.05
    floor: float = 0.1
    bootstrap: int = 1000
    ignore_unknown: bool = False
    seed: int = 0
    rescale: fourier.Rescale | None = None
    at: Place = "image"
    iou_type: IouType = "bbox"
    control: bool = False

    def __post_init__(self) -> None:
        checks.plain(self)
        if self.radii != "auto":
            checks.keep(self, radii=fourier.check_radii(self.radii))
        fourier.check_units(self.units)
        checks.choice("hfc_background", self.hfc_background, ("zero", "mean"))
        fourier.check_rescale(self.rescale)
        checks.choice("at", self.at, ("image", "input"))
        checks.choice("iou_type", self.iou_type, IOU_TYPES)
        if self.max_dets is None:
            checks.keep(self, max_dets=MOST[self.iou_type])
        for name, least in (("max_dets", 1), ("bootstrap", 0)):
            checks.keep(self, **{name: checks.whole(name, getattr(self, name), least)})
        for name in ("margin", "floor"):
            checks.keep(self, **{name: checks.number(name, getattr(self, name), 0, 1)})
        if self.pixel_mean is not None:
            mean = checks.numbers("pixel_mean", self.pixel_mean, increasing=False)
            checks.keep(self, pixel_mean=mean)

    @property
    def cutoffs(self) -> tuple[float, ...]:
        """The radii as numbers.

        Raises:
            InputError: :meth:`measure` has yet to place them.
        """
        if self.radii == "auto":
            raise InputError(
                'radii: expected numbers, got "auto", which DetectionAudit.measure alone can place'
            )
        return self.radii

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of what the detector is shown."""
        return variant_names(self.cutoffs)

    @property
    def shown(self) -> tuple[str, ...]:
        """Of the variants, and of the control if there is one."""
        return (*self.variants, CONTROL) if self.control else self.variants

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
    ) -> DetectionAuditResult:
        """Run a detector over a data set, once, and evaluate every variant.

        Each image is loaded once, split once per radius, and shown as original, LFC(r) and
        HFC(r). A detector that is a module is put into evaluation mode and left exactly as it
        was. Under ``torch.distributed`` call it on every process: each takes a share of the
        images, rank 0 evaluates, and all return the same result.

        Args:
            detector: maps a list of ``(C, H, W)`` images in [0, 1] to a list of mappings
                with ``boxes`` ``(n, 4)`` (x0, y0, x1, y1 in original pixels), ``scores``
                ``(n,)``, ``labels`` ``(n,)`` (category ids), or tuples of the three; under another
                ``iou_type`` with ``masks`` ``(n, 1, H, W)`` or ``keypoints`` ``(n, 17, 3)`` as
                well. torchvision's detection models are such.
            dataset: such as :class:`CocoImages`.
            model: the module inside a detector that is a plain function: it is kept in
                evaluation mode.
            device: where images go; None: where the module is, else the CPU.
            batch_size: images per call of the detector.
            limit: maximum number of images, a seeded random choice.
            resume: directory that keeps the detections of finished images; when it holds
                some of the same audit, those images are not run again, but for two that show
                whether this is the same detector.
            skip_broken: count and name images that cannot be read, and continue without them.
            progress: show a progress bar on standard error.
            identity: of a detector that was called already, from before the first call; None: as
                :func:`hfc_probe.detection.identity.detector_identity` finds it now.

        Raises:
            InputError: a detector, data or directory that cannot be used. What was finished
                before stays in ``resume``.
        """
        if not callable(detector):
            raise InputError(
                f"detector: expected something to call with a list of images, got "
                f"{type(detector).__name__}"
            )
        if self.at == "input":
            raise InputError(
                'at: expected "image", got "input", and what happens to an image inside of a '
                "detector cannot be reached here; hfc_probe_detectron2 can filter a model's input"
            )
        batch_size = checks.whole("batch_size", batch_size)
        module = detector if isinstance(detector, nn.Module) else model
        inside = unwrap(detector) if isinstance(detector, nn.Module) else detector
        mean = self.pixel_mean or pixel_mean_of(inside)
        background = background_of(self.hfc_background, mean)
        used = dataclasses.replace(
            self, pixel_mean=None if background is None else tuple(background.tolist())
        )
        truth = dataset.truth
        image_ids = self._choose(truth, limit)
        reading: dict[str, Any] = {"batch_size": batch_size}
        if batch_size > 1:  # an image is padded with its companions
            reading["batches"] = zlib.crc32(str(image_ids).encode())
        first = dict(identity or detector_identity(detector, module))
        where = torch.device(device or (device_of(module) if module else "cpu"))
        if used.radii == "auto":
            with together(
                f"radii {json.dumps([first['weights'], image_ids], default=str)}"
            ) as ranks:
                radii = known_radii(resume) if ranks.leads else None
                if ranks.leads and radii is None:
                    with undisturbed(detector, module) as run:
                        radii = used._placed(run, dataset, image_ids, where, background)
                radii = ranks.broadcast(radii)
            settings = {f.name: getattr(used, f.name) for f in dataclasses.fields(used)}
            used = PlacedAudit(**settings | {"radii": radii})
        fingerprint = used.fingerprint(first, truth, reading)
        attributes = fingerprint.pop("attributes")  # may name this rank's own device
        with together(json.dumps(fingerprint, sort_keys=True, default=str)) as ranks:
            fingerprint["attributes"] = ranks.broadcast(attributes)
            store = PredictionStore(
                resume,
                fingerprint,
                ranks.rank,
                lambda: changed(first, detector_identity(detector, module)),
            )
            ranks.gather(None)  # nobody writes before everybody has read
            broken: dict[ImageId, str] = {}
            digest = getattr(dataset, "digest", None)
            with contextlib.closing(store), undisturbed(detector, module) as run:
                again = store.believe(image_ids, digest, say=ranks.leads)
                plan = _Plan(image_ids, batch_size, ranks.rank, ranks.world)
                shown = progress and ranks.leads
                options = (where, used, background)
                if ranks.leads:
                    for found in _pass(run, dataset, plan.with_any(again), *options, False):
                        for image_id, content in found.items():
                            if image_id in again and not isinstance(content, BrokenImageError):
                                store.confirm(image_id, content)
                for found in _pass(run, dataset, plan.left(store.finished), *options, shown):
                    for image_id, content in found.items():
                        if isinstance(content, BrokenImageError):
                            if not skip_broken:
                                raise content
                            broken[image_id] = str(content)
                        else:
                            used._check_categories(content, truth)
                            store.add(image_id, content, digest(image_id) if digest else "")
                doubt = None
                known = [i for i in image_ids if i in store.finished]
                if ranks.leads and known and background is None:
                    doubt = sign_doubt(run, dataset.load(known[0]).to(where))
            finished: Finished = {}
            for part, unreadable in ranks.gather((store.finished, broken)):
                finished |= part
                broken |= unreadable
            result: DetectionAuditResult = ranks.broadcast(
                used.evaluate(
                    truth, _by_variant(finished, image_ids, used.shown), skipped=broken,
                    image_ids=image_ids,
                ) if ranks.leads else None
            )  # fmt: skip
            note = turned_note(dataset, result.image_ids) if ranks.leads else None
            doubt, note = ranks.broadcast((doubt, note))
        doubts = (*result.doubts, *((doubt,) if doubt else ()))
        notes = (*result.notes, *((note,) if note else ()))
        return dataclasses.replace(result, dataset=dataset, doubts=doubts, notes=notes)

    def evaluate(
        self,
        truth: GroundTruth,
        predictions: Mapping[str, Mapping[ImageId, Detections]],
        *,
        image_ids: Sequence[ImageId] | None = None,
        skipped: Mapping[ImageId, str] | None = None,
    ) -> DetectionAuditResult:
        """Evaluate detections that were made elsewhere.

        Args:
            truth: the annotations.
            predictions: by variant (:attr:`variants`), then by image; an image without an
                entry has no detections.
            image_ids: images that count; None for all of the annotations.
            skipped: images left out, and why.

        Raises:
            InputError: other variants, unknown images or categories, pycocotools not installed.
        """
        control = dict(predictions).get(CONTROL)
        predictions = {name: found for name, found in predictions.items() if name != CONTROL}
        if set(predictions) != set(self.variants):
            raise InputError(
                f"predictions: expected the variants {', '.join(self.variants)}, got "
                f"{', '.join(predictions) or 'none'}"
            )
        skipped = dict(skipped or {})
        chosen = truth.images if image_ids is None else image_ids
        kept = sorted((i for i in chosen if i not in skipped), key=order)
        if not kept:
            raise InputError(
                f"images: expected at least one image that can be read, got {len(skipped)} broken "
                f"ones: {named(list(skipped.values())) or 'none at all'}"
            )
        for name, found in predictions.items():
            unknown = [i for i in found if i not in truth.images]
            if unknown:
                raise InputError(
                    f"predictions: expected image ids of the annotations, got {named(unknown)} in "
                    f"{name}"
                )
        for image_id in kept:
            self._check_categories(
                {n: f[image_id] for n, f in predictions.items() if image_id in f}, truth
            )
        evaluations = {
            name: evaluation.evaluate(
                truth,
                kept,
                predictions[name],
                max_dets=self.most_dets,
                iou_type=self.iou_type,
            )
            for name in self.variants
        }
        return DetectionAuditResult.build(
            settings={f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            truth=truth,
            image_ids=tuple(kept),
            predictions={
                n: {i: f for i, f in predictions[n].items() if i not in skipped}
                for n in self.variants
            },
            evaluations=evaluations,
            skipped=skipped,
            control=None if control is None else evaluation.image_precisions(
                truth, kept, control, max_dets=self.most_dets, iou_type=self.iou_type
            ),
        )  # fmt: skip

    @property
    def most_dets(self) -> int:
        """Detections per image and class that count."""
        return self.max_dets or MOST[self.iou_type]

    def _choose(self, truth: GroundTruth, limit: int | None) -> list[ImageId]:
        limit = check_limit(limit)
        image_ids = sorted(truth.images, key=order)
        if limit is not None and limit < len(image_ids):
            image_ids = sorted(random.Random(self.seed).sample(image_ids, limit), key=order)
        return image_ids

    def fingerprint(
        self, detector: Mapping[str, Any], truth: GroundTruth, reading: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Everything that detections depend on: finished images of another audit are refused.

        Args:
            detector: see :func:`hfc_probe.detection.identity.detector_identity`.
            truth: for the images' names; their annotations do not matter.
            reading: what else decides how images are read and batched.
        """
        names = ("radii", "units", "hfc_background", "pixel_mean", "closed", "rescale", "at")
        files = sorted(f"{i} {image.get('file_name')}" for i, image in truth.images.items())
        return {
            "version": 4,  # 1 padded names differently, 2 knew less of a detector, 3 paths
            **detector,
            "images": f"{len(files)} named {zlib.crc32(chr(10).join(files).encode()):08x}",
            **reading,
            **{name: getattr(self, name) for name in names},
            **(
                {} if self.iou_type == "bbox" else {"iou_type": self.iou_type}
            ),  # an older version's
            **({CONTROL: True} if self.control else {}),
        }

    def _placed(
        self,
        run: Detector,
        dataset: DetectionDataset,
        image_ids: Sequence[ImageId],
        device: torch.device,
        background: Tensor | None,
    ) -> tuple[float, ...]:
        """Radii where the detector's answer changes on a few of the images."""
        chosen = scored_images(dataset.truth, image_ids, self.iou_type)
        if len(chosen) > LOOKED:
            chosen = sorted(random.Random(self.seed).sample(chosen, LOOKED), key=order)
        read = {i: read_batch(dataset, [i])[0] for i in chosen}
        images = {i: one for i, one in read.items() if not isinstance(one, BrokenImageError)}

        def show(image_id: ImageId, radii: Sequence[float]) -> dict[str, Detections]:
            some = dataclasses.replace(self, radii=tuple(radii), control=False)
            image = images[image_id]
            found = detect_variants(run, [image_id], [image], device, some, background)[image_id]
            assert not isinstance(found, BrokenImageError)
            return found

        return placed(
            dataset.truth,
            images,
            show,
            units=self.units,
            max_dets=self.most_dets,
            iou_type=self.iou_type,
        )

    def _check_categories(self, found: Mapping[str, Detections], truth: GroundTruth) -> None:
        if self.ignore_unknown:
            return
        for name, detections in found.items():
            check_categories(detections, truth, name)


class PlacedAudit(DetectionAudit):
    """An audit whose radii were placed; its result says so."""

    def fingerprint(self, *given: Any) -> dict[str, Any]:
        return {**super().fingerprint(*given), "placed": True}

    def evaluate(
        self, truth: GroundTruth, predictions: Any, **options: Any
    ) -> DetectionAuditResult:
        result = super().evaluate(truth, predictions, **options)
        count = min(LOOKED, len(scored_images(truth, result.image_ids, self.iou_type)))
        note = (
            f"the {len(self.variants) // 2} radii were placed where AP changes on {count} of the "
            'images (radii="auto")'
        )
        settings = {**result.settings, "placed": True}
        return dataclasses.replace(result, settings=settings, notes=(*result.notes, note))


class _Plan:
    """Which images go together, and who runs them.

    Batches are cut from the whole list, whatever is finished already and however many
    processes there are, so that every image is always padded with the same companions.
    """

    def __init__(self, image_ids: Sequence[ImageId], size: int, rank: int, world: int) -> None:
        batches = [list(image_ids[k : k + size]) for k in range(0, len(image_ids), size)]
        self._batches = batches
        self._rank, self._world = rank, world

    def with_any(self, image_ids: Sequence[ImageId]) -> list[list[ImageId]]:
        """Batches that hold some images."""
        return [batch for batch in self._batches if any(i in image_ids for i in batch)]

    def left(self, finished: Mapping[ImageId, Any]) -> list[list[ImageId]]:
        """Batches of this process that are not finished."""
        todo = [batch for batch in self._batches if not all(i in finished for i in batch)]
        return todo[self._rank :: self._world]


def _pass(
    run: Detector,
    dataset: DetectionDataset,
    batches: list[list[ImageId]],
    device: torch.device,
    audit: DetectionAudit,
    background: Tensor | None,
    progress: bool,
) -> Iterator[dict[ImageId, dict[str, Detections] | BrokenImageError]]:
    """Run batches; the next one is read while the detector works on this one."""
    from tqdm.auto import tqdm

    total = sum(len(batch) for batch in batches)
    bar = tqdm(total=total, unit="image", disable=not progress, leave=False, dynamic_ncols=True)
    with bar, ThreadPoolExecutor(1, thread_name_prefix="hfc_probe") as reader:
        coming = reader.submit(read_batch, dataset, batches[0]) if batches else None
        for k, batch in enumerate(batches):
            assert coming is not None
            images = coming.result()
            if k + 1 < len(batches):
                coming = reader.submit(read_batch, dataset, batches[k + 1])
            try:
                yield detect_variants(run, batch, images, device, audit, background)
            except BaseException:
                coming.cancel()
                raise
            bar.update(len(batch))


def read_batch(dataset: DetectionDataset, batch: list[ImageId]) -> list[Tensor | BrokenImageError]:
    images: list[Tensor | BrokenImageError] = []
    for image_id in batch:
        try:
            image = dataset.load(image_id)
        except BrokenImageError as error:
            images.append(error)
            continue
        if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
            got = (
                f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image)
            )
            raise InputError(f"dataset: expected load() to give float (C, H, W) images, got {got}")
        low, high = float(image.min()), float(image.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise InputError(
                f"dataset: expected images in [0, 1], got [{low:g}, {high:g}] for image "
                f"{image_id}; give images before normalisation, 8-bit ones divided by 255"
            )
        images.append(image)
    return images


def detect_variants(
    run: Detector,
    batch: list[ImageId],
    images: list[Tensor | BrokenImageError],
    device: torch.device,
    audit: DetectionAudit,
    background: Tensor | None,
) -> dict[ImageId, dict[str, Detections] | BrokenImageError]:
    found: dict[ImageId, dict[str, Detections] | BrokenImageError] = {}
    readable: list[tuple[ImageId, Tensor]] = []
    for image_id, image in zip(batch, images, strict=True):
        if isinstance(image, BrokenImageError):
            found[image_id] = image
        else:
            readable.append((image_id, image.to(device, non_blocking=True)))
    if not readable:
        return found
    rows: dict[ImageId, dict[str, Detections]] = {image_id: {} for image_id, _ in readable}
    outputs = run_variants(
        run,
        [image for _, image in readable],
        radii=audit.cutoffs,
        closed=audit.closed,
        units=audit.units,
        background=background,
        rescale=audit.rescale,
        control=audit.control,
    )
    for name, output in outputs:
        for row, detections in zip(
            rows.values(), detections_from(output, len(readable), audit.iou_type), strict=True
        ):
            row[name] = detections
    return found | rows


@contextlib.contextmanager
def undisturbed(detector: Detector, module: nn.Module | None) -> Iterator[Detector]:
    """The detector in evaluation mode, without gradients, its module left as it was."""
    if module is None:
        with protected_rng(), torch.no_grad():
            yield detector
        return
    with isolated(module) as inner:
        if detector is not module:
            yield detector
            return
        dtype = getattr(first_tensor(inner), "dtype", torch.float32)
        if dtype.is_floating_point and dtype != torch.float32:
            yield lambda images: inner([image.to(dtype) for image in images])
        else:
            yield inner


def turned_note(dataset: DetectionDataset, image_ids: Sequence[ImageId]) -> str | None:
    """A note if EXIF orientations were undone; annotations may be of the pixels as stored."""
    turned = getattr(dataset, "turned", None)
    count = sum(map(turned, image_ids)) if turned else 0
    if not count:
        return None
    return (
        f"{count} images were turned upright by EXIF; if the annotations are of the pixels as "
        "stored, remove the orientation from the files"
    )


def _by_variant(
    finished: Finished, image_ids: Sequence[ImageId], names: Sequence[str]
) -> dict[str, dict[ImageId, Detections]]:
    return {n: {i: finished[i][n] for i in image_ids if i in finished} for n in names}


def order(image_id: ImageId) -> tuple[bool, Any]:
    return isinstance(image_id, str), image_id


__all__ = ["ORIGINAL", "DetectionAudit", "Detector"]
