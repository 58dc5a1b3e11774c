"""Which frequencies a detector's loss leans on, from input gradients."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from .. import fourier
from ..core.provenance import weights_hash
from ..data.samples import check_limit
from ..ground import checks
from ..ground.errors import InputError
from ..measurements.fourier_sensitivity import (
    FourierSensitivityResult,
    amplitude,
    ring_shares,
    rings,
)
from ..model.isolation import device_of, isolated
from ..version import __version__
from .audit import order, read_batch
from .coco import DetectionDataset, GroundTruth, ImageId
from .pictures import BrokenImageError
from .scoring import scored_images

Loss = Callable[[nn.Module, list[Tensor], list[dict[str, Tensor]]], Any]
# Layers that in training mode would look at the batch, remember it, or draw at random.
_STILL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True)
class DetectionSensitivity:
    """Mean ``|F(∇ₓ loss)|`` of every frequency, for any detector that has a loss.

    As :class:`hfc_probe.FourierSensitivity`: the slope of the loss at the image itself, for small
    noise, in loss per unit of L2 norm in pixel space. Each image's gradient is transformed at its
    own size, before the detector resizes anything, and the map has the n×n frequencies around DC,
    in cycles of the image.

    Args:
        loss: ``loss(model, images, targets)``: a number, or a mapping whose values are summed.
            ``images`` is a list of one ``(C, H, W)`` image in [0, 1], ``targets`` a list of one
            mapping with ``boxes`` ``(n, 4)`` (x0, y0, x1, y1) and ``labels`` ``(n,)`` (category
            ids). None: as torchvision's detectors have it, ``model(images, targets)`` in training
            mode, but for normalisation and dropout.
        crop: n; None: the shortest side of all images.
        samples: maximum number of images, a seeded random choice of those with objects.
        channels: see :class:`hfc_probe.FourierSensitivity`.
        seed: of the choice, and of what the loss draws at random.

    Raises:
        InputError: settings that cannot work.

    Source: Krishnamachari et al., TMLR 2022, with a detector's loss.
    """

    loss: Loss | None = None
    crop: int | None = None
    samples: int = 100
    channels: Literal["rms", "mean"] = "rms"
    seed: int = 0

    def __post_init__(self) -> None:
        checks.plain(self)
        checks.choice("channels", self.channels, ("rms", "mean"))
        checks.keep(self, samples=checks.whole("samples", self.samples))
        if self.crop is not None:
            checks.keep(self, crop=checks.whole("crop", self.crop, 2))
        if self.loss is not None:
            checks.function("loss", self.loss, "loss(model, images, targets) -> a number")

    def measure(
        self,
        model: nn.Module,
        dataset: DetectionDataset,
        *,
        device: torch.device | str | None = None,
        limit: int | None = None,
        skip_broken: bool = False,
        progress: bool = False,
    ) -> DetectionSensitivityResult:
        """Measure the map; the model is left exactly as it was.

        Args:
            model: the detector, a module.
            dataset, device, limit, skip_broken, progress: as of :meth:`DetectionAudit.measure`.

        Raises:
            InputError: no module, a loss that is no finite number or does not depend on the
                image, images smaller than ``crop``.
        """
        from tqdm.auto import tqdm

        if not isinstance(model, nn.Module):
            raise InputError(
                f"model: expected a torch.nn.Module with a loss, got {type(model).__name__}"
            )
        began = time.perf_counter()
        truth = dataset.truth
        chosen = scored_images(truth, sorted(truth.images, key=order))
        most = min(self.samples, check_limit(limit) or self.samples)
        if most < len(chosen):
            chosen = sorted(random.Random(self.seed).sample(chosen, most), key=order)
        where = torch.device(device or device_of(model))
        maps, by_ring, losses = [], [], []
        bar = tqdm(chosen, unit="image", disable=not progress, leave=False, dynamic_ncols=True)
        with isolated(model, grad=True) as inner, bar:
            for image_id in bar:
                (image,) = read_batch(dataset, [image_id])
                if isinstance(image, BrokenImageError):
                    if not skip_broken:
                        raise image
                    continue
                loss, gradient = self._gradient(
                    inner, image.to(where), targets_of(truth, image_id, where)
                )
                losses.append(loss)
                if self.channels == "mean":
                    gradient = gradient.mean(0, keepdim=True)
                spectrum = amplitude(gradient[None])
                height, width = image.shape[-2:]
                share, known = ring_shares(spectrum**2, rings(height, width, where))
                if known:
                    by_ring.append(share.cpu().numpy())
                maps.append(torch.fft.fftshift(spectrum[0]).cpu().numpy().astype(np.float64))
        if not maps:
            raise InputError(
                "dataset: expected an image with an annotated object that can be read, got none"
            )
        side = self.crop or min(min(one.shape) for one in maps)
        if side > min(min(one.shape) for one in maps):
            raise InputError(
                f"crop: expected at most the sides of every image, got {side} and an image of "
                f"{'×'.join(map(str, min((one.shape for one in maps), key=min)))}"
            )
        values = np.stack([_centre(one, side) for one in maps])
        count = len(values)
        mean = values.mean(0)
        half = np.full_like(mean, np.inf)
        if count > 1:
            half = 1.96 * values.std(0, ddof=1) / count**0.5
        length = len(fourier.radial_profile(torch.from_numpy(mean)))
        padded = [np.pad(one, (0, max(0, length - len(one))))[:length] for one in by_ring]
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        name = getattr(self.loss, "__name__", "loss") if self.loss is not None else None
        return DetectionSensitivityResult(
            settings=settings | {"loss": name, "crop": side, "per_class": False},
            samples=count,
            sensitivity=mean,
            lower=np.maximum(mean - half, 0),
            upper=mean + half,
            by_class=None,
            class_counts=np.zeros(0, np.int64),
            clean_loss=float(np.mean(losses)),
            power_share=np.mean(padded, axis=0) if padded else np.full(length, np.nan),
            clean_right=0,
            provenance={
                "version": __version__,
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "model": type(inner).__name__,
                "weights": weights_hash(inner),
                "passes": count,
                "seconds": round(time.perf_counter() - began, 3),
                "device": str(where),
            },
        )

    def _gradient(
        self, model: nn.Module, image: Tensor, target: dict[str, Tensor]
    ) -> tuple[float, Tensor]:
        torch.manual_seed(self.seed)  # detectors draw the boxes that their loss is made of
        image = image.detach().requires_grad_(True)
        found = (self.loss or training_loss)(model, [image], [target])
        value = sum(found.values()) if isinstance(found, Mapping) else found
        if not isinstance(value, Tensor) or value.numel() != 1 or not bool(value.isfinite()):
            got = type(value).__name__
            if isinstance(value, Tensor):
                got = f"{float(value.detach())}" if value.numel() == 1 else f"{tuple(value.shape)}"
            raise InputError(f"loss: expected one finite number, or a mapping of such, got {got}")
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), image, allow_unused=True)
        if gradient is None:
            raise InputError(
                "loss: expected a loss through which gradients reach the image, got one that cuts "
                "them; look for torch.no_grad or .detach() in the detector"
            )
        return float(value.detach()), gradient.detach().to(torch.float32)


def training_loss(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Any:
    """What a detector of torchvision returns in training; called on a model in isolation."""
    for module in model.modules():
        module.training = not isinstance(module, _STILL)
    return model(images, targets)


def targets_of(truth: GroundTruth, image_id: ImageId, device: torch.device) -> dict[str, Tensor]:
    """An image's objects as detectors are trained with: ``boxes`` and ``labels``, no crowds."""
    objects = [
        a
        for a in truth.annotations
        if a["image_id"] == image_id and not a["iscrowd"] and min(a["bbox"][2:]) > 0
    ]
    boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    labels = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
    return {"boxes": boxes.to(device), "labels": labels.to(device)}


def _centre(values: Any, side: int) -> Any:
    top, left = (size // 2 - side // 2 for size in values.shape)
    return values[top : top + side, left : left + side]


@dataclass(frozen=True, eq=False)
class DetectionSensitivityResult(FourierSensitivityResult):
    """As :class:`FourierSensitivityResult`, of a detector's loss; maps are ``(n, n)``.

    ``power_share`` is of the power at all frequencies of an image, of which the map may show a
    part.
    """

    def original(self) -> None:  # type: ignore[override]
        """A loss is nothing that a guess could reach."""
        return


__all__ = ["DetectionSensitivity", "DetectionSensitivityResult"]
