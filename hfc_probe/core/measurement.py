"""What every measurement has in common: settings, and how it is run."""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import nn

from ..data.samples import PixelSpace, Samples
from ..ground import checks
from ..ground.errors import InputError
from ..model.shared_logits import SharedLogits
from ..model.subject import Predict, Subject, subject_of
from ..ranks import RankGroup
from .provenance import stamp
from .result import Result

logger = logging.getLogger("hfc_probe")


R = TypeVar("R", bound=Result)
R_co = TypeVar("R_co", bound=Result, covariant=True)


class Computes(Protocol[R_co]):
    """A measurement whose :meth:`compute` says which result it has, for type checkers."""

    needs_data: ClassVar[bool]
    needs_logits: ClassVar[bool]
    any_shape: ClassVar[bool]

    def compute(self, subject: Subject) -> R_co: ...


def snake_case(name: str) -> str:
    """A class's name as the name of its module.

    >>> snake_case("TruncatedSVD")
    'truncated_svd'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@dataclass(frozen=True)
class Measurement(ABC):
    """Settings of one measurement; :meth:`measure` runs it.

    Write your own as a frozen dataclass with a :meth:`compute`; override :attr:`needs_data`
    if it looks at weights alone, :meth:`cost` and :meth:`overhead` to tell the budget what it
    costs.
    """

    needs_data: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = True  # otherwise no trial pass asks for them
    any_shape: ClassVar[bool] = False  # whether it takes video, volumes, images of several sizes

    def __post_init__(self) -> None:
        checks.plain(self)

    @property
    def name(self) -> str:
        """The class name in snake case: the measurement's name in logs and files.

        >>> from hfc_probe import FrequencyAccuracy
        >>> FrequencyAccuracy().name
        'frequency_accuracy'
        """
        return snake_case(type(self).__name__)

    def measure(
        self: Computes[R],
        model: nn.Module,
        data: Any = None,
        *,
        pixels: PixelSpace | None = None,
        predict: Predict | None = None,
        limit: int | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> R:
        """Measure a model; it is left exactly as it was (see :mod:`hfc_probe.model.isolation`).

        Args:
            model: any ``nn.Module``, in any mode, on any device, wrapped or not.
            data: an iterable of batches as the model takes them, or :class:`Samples`.
            pixels: the model's normalisation. With a loader, None means: as found in its
                transforms, else none.
            predict: ``predict(model, images) -> logits`` if the model returns neither a
                tensor, nor a tuple that starts with one, nor something with ``.logits``.
            limit: maximum number of samples (a seeded random choice).
            batch_size: images per forward pass; halved and tried again if memory runs out.
            progress: show a progress bar on standard error.

        Raises:
            InputError: data, labels or a model that cannot be measured, in one sentence.
        """
        samples = None
        if data is not None:
            samples = Samples.collect(data, pixels=pixels, limit=limit)
            pixels = samples.normalization
        return Measurement.run(
            self,
            model,
            samples,
            pixels=pixels,
            predict=predict,
            batch_size=batch_size,
            progress=progress,
        )

    def run(
        self: Computes[R],
        model: nn.Module,
        samples: Samples | None,
        *,
        pixels: PixelSpace | None = None,
        predict: Predict | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        ranks: RankGroup | None = None,
        shared: SharedLogits | None = None,
        last: Result | None = None,
        step: int | None = None,
        epoch: int | None = None,
    ) -> R:
        """As :meth:`measure`, on samples that were collected.

        Args:
            ranks: those that run this very measurement now, each with the same samples; each
                does a share of the passes, and all return the result.
            shared: what measurements that follow one another on the same weights share, so that
                each view of the images passes through the model once.
            last: what this measurement found on these samples before, to start from.
            step, epoch: of the training, for the result's provenance.
        """
        began = time.perf_counter()
        if samples is None and self.needs_data:
            raise InputError(
                f"{type(self).__name__}: expected data (a loader or Samples), got none"
            )
        if samples is not None and self.needs_data:
            check_shape(self, samples)
        while True:
            try:
                with (
                    nullcontext() if ranks is None else ranks.in_step(),
                    subject_of(
                        model,
                        samples,
                        pixels=pixels,
                        predict=predict,
                        batch_size=batch_size,
                        progress=progress,
                        ranks=ranks,
                        shared=shared,
                        trial=self.needs_data and self.needs_logits,
                    ) as subject,
                ):
                    batch_size = subject.batch_size
                    return stamp(
                        self.compute(dataclasses.replace(subject, last=last)),
                        subject,
                        samples if self.needs_data else None,
                        seconds=time.perf_counter() - began,
                        step=step,
                        epoch=epoch,
                    )
            except Exception as error:
                if shared is not None:
                    shared.clear()
                if not isinstance(error, (torch.OutOfMemoryError, MemoryError)):
                    raise
                if batch_size is None or batch_size == 1:
                    raise
            # Outside the handler, so that its traceback no longer holds the tensors.
            batch_size //= 2
            logger.info("hfc_probe: out of memory, trying again with batches of %d", batch_size)
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def validate(self, model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        """Raise :class:`InputError` for what :meth:`compute` is sure to refuse.

        Called when a probe is attached, so that a mistake stops the program before training
        and not in the middle of it.
        """
        return

    @property
    def reads_logits(self) -> bool:
        """Whether a model has to answer with logits that fit the labels."""
        return self.needs_data and self.needs_logits

    @property
    def variant(self) -> str:
        """Distinguishes two measurements of one class in one probe, which must differ in it."""
        return ""

    @abstractmethod
    def compute(self, subject: Subject) -> Result:
        """The measurement itself, on a model in isolation."""

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        """How many single-image forward passes it takes: the budget is based on it.

        A backward pass, which takes about as long as two forward ones, counts as two. If the
        number depends on what is found, this is the most it can be.
        """
        return samples

    def overhead(self, samples: int, image_shape: tuple[int, int, int]) -> float:
        """Approximate seconds spent outside forward passes, if significant."""
        return 0.0


def check_shape(measurement: Computes[Any], samples: Samples) -> None:
    """Refuse video, volumes and images of several sizes, unless a measurement takes them.

    Raises:
        InputError: with those that do.
    """
    shape = tuple(samples.images.shape[1:])
    if getattr(measurement, "axes", 2) == 3 and len(shape) != 4:
        raise InputError(
            "axes: expected video or volumes (C, T, H, W) for axes=3, got images of shape "
            f"{shape}; leave it out"
        )
    if measurement.any_shape or samples.is_plain:
        return
    got = f"images of shape {shape}" if samples.sizes is None else "images of several sizes"
    raise InputError(
        f"{type(measurement).__name__}: expected images (C, H, W) of one size, got {got}; "
        "FrequencyAccuracy and ImageScore take them, and KernelSpectra needs none"
    )


def settings_of(measurement: Measurement) -> dict[str, Any]:
    """A measurement's settings by name."""
    return {f.name: getattr(measurement, f.name) for f in dataclasses.fields(measurement)}
