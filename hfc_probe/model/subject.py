"""Images in pixel space in, logits out: a model in isolation with its samples.

Long because every pass of images through a model goes through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .. import fourier
from ..data.samples import PixelSpace, Samples, check_pixels
from ..ground import checks
from ..ground.devices import sent
from ..ground.errors import InputError
from ..ranks import RankGroup, share_buffers
from .isolation import device_of, first_tensor, isolated
from .outputs import described, first_output, look_like_probabilities, tensor_among
from .shared_logits import SharedLogits
from .trial import Verdict, known, verdict_of


@dataclass
class Tally:
    """What a measurement did with its subject: images put through the model, logits seen."""

    passes: int = 0
    classes: int | None = None


Job = TypeVar("Job")


Found = TypeVar("Found")


Predict = Callable[[nn.Module, Tensor], Tensor]


_PROBABILITIES = (
    "the model's outputs look like probabilities (all within [0, 1]), and are taken for logits: if "
    "so, confidences, losses and gradients are not its own; give logits by predict=, for example "
    "lambda model, images: model(images).log() after a softmax"
)

# Batches on a GPU whose logits are looked at for NaN together.
_UNCHECKED = 64

# Pixels of one batch if the caller names no size: 256 images of 32×32, 16 of 224×224.
_BATCH_PIXELS = 256 * 3 * 32 * 32


@dataclass(frozen=True)
class Subject:
    """A model in isolation with the samples it is looked at through.

    Measurements get one; it is valid while they run.

    Attributes:
        model: the unwrapped model, in evaluation mode.
        samples: images in pixel space and targets.
        pixels: how the model wants them normalised.
        device: where the model is.
        batch_size: images per forward pass.
        ranks: those that measure together, see :meth:`distribute`; None for one alone.
        last: what the measurement found on these samples before, its own result; None if nothing.
        caveats: sentences on what cannot be trusted about what is found; whoever works on the
            subject may add one, and the result says them first.
        shared: logits that measurements before this one may have left, see :meth:`components`.
        tally: what was done with the model.
        unchecked: for :meth:`check_finite`: logits with NaN, images and what they were, by batch.
    """

    model: nn.Module
    samples: Samples
    pixels: PixelSpace
    device: torch.device
    batch_size: int
    predict: Predict | None = None
    show_progress: bool = False
    ranks: RankGroup | None = None
    shared: SharedLogits | None = None
    last: Any = None
    caveats: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    unchecked: list[tuple[Tensor, int, str]] = field(default_factory=list)

    def logits(self, images: Tensor, what: str = "original") -> Tensor:
        """Logits ``(N, K)`` in float32 for images in pixel space, not clipped.

        Raises:
            InputError: an output that is no ``(N, K)`` tensor, or NaN among the logits.
        """
        logits = self.outputs(images)
        self.unchecked.append((logits.isnan().any(1).sum(), len(images), what))
        waits = self.device.type != "cpu" and self.ranks is None
        if not waits or len(self.unchecked) >= _UNCHECKED:
            self.check_finite()
        self.tally.passes += len(logits)
        self.tally.classes = logits.shape[1]
        return logits

    def check_finite(self) -> None:
        """Raise :class:`InputError` for NaN among the logits so far.

        Looking at each batch at once would make the host wait for a GPU after every batch.
        """
        unchecked = self.unchecked[:]
        self.unchecked.clear()
        counts = torch.stack([bad for bad, _, _ in unchecked]).tolist() if unchecked else []
        for bad, (_, count, what) in zip(counts, unchecked, strict=True):
            if bad:
                raise InputError(
                    f"model: expected finite logits, got NaN for {bad} of {count} {what} "
                    "images; look for diverged training or a wrong normalisation"
                )

    def check_scale(self, logits: Tensor) -> None:
        """A caveat for logits that are probabilities, for what takes softmax or a loss of them.

        Of the first batch alone: a GPU's host waits for it.
        """
        if _PROBABILITIES not in self.caveats and look_like_probabilities(logits.detach()):
            self.caveats.append(_PROBABILITIES)

    def original(
        self, start: int, images: Tensor, *, rescale: fourier.Rescale | None = None
    ) -> Tensor:
        """The first of :meth:`components`: logits of a batch of the samples as they are."""
        return next(self.components(start, images, (), rescale=rescale))

    def components(
        self,
        start: int,
        images: Tensor,
        radii: Sequence[float],
        *,
        closed: bool = True,
        units: fourier.Units = "cycles",
        background: fourier.Background = "zero",
        rescale: fourier.Rescale | None = None,
        axes: int = 2,
    ) -> Iterator[Tensor]:
        """Logits of the original, then of LFC(r) and HFC(r) of each radius, for one batch.

        What another measurement of the same session has shown the model in the same way, in the
        same batch, is neither transformed nor shown again.

        Args:
            start: number of the batch's first sample.
            images: the batch, see :meth:`batch`.
            radii, closed, units, rescale, axes: as :func:`hfc_probe.fourier.components`.
            background: of the HFC: ``"zero"``, or ``"mean"``, the samples' mean by channel.

        Raises:
            InputError: targets that the model has no logit for; as :meth:`logits`.
        """

        def view(part: str, radius: float | None) -> Hashable:
            how = () if radius is None else (radius, closed, units, axes)
            shown = (part, *how, rescale, background if part == "hfc" else None)
            return (self.pixels, id(self.predict), self.batch_size, *shown)

        shared = self.shared
        if shared is not None and shared.model is not self.model:
            shared = None
        names = [("original", None), *((part, r) for r in radii for part in ("lfc", "hfc"))]
        kept = {
            name: None if shared is None else shared.get(self.samples, view(*name), start)
            for name in names
        }
        missing = [r for r in radii if kept["lfc", r] is None or kept["hfc", r] is None]
        added = self.samples.mean if missing and background == "mean" else None
        made = fourier.components(
            images,
            missing,
            closed=closed,
            units=units,
            background=added,
            rescale=rescale,
            axes=axes,
        )
        for name in names:
            logits = kept.pop(name)
            if logits is None:
                part = next(one for one in made if (one.part, one.radius) == name)
                logits = self.logits(part.images, str(part))
                if shared is not None:
                    shared.keep(self.samples, view(*name), start, logits)
            self.tally.classes = logits.shape[1]
            if start == 0 and name == names[0]:
                self.check_targets(logits.shape[1])
            yield logits

    def answer(self, images: Tensor, *, tensor: bool = False) -> Any:
        """What the model or ``predict`` returns for images in pixel space, of any form, counted.

        Args:
            tensor: the tensor among it, see :func:`hfc_probe.model.outputs.tensor_among`.
        """
        self.tally.passes += len(images)
        output = self._run(images)
        return tensor_among(output, len(images)) if tensor else output

    def _run(self, images: Tensor) -> Any:
        dtype = getattr(first_tensor(self.model), "dtype", images.dtype)
        inputs = self.pixels.normalize(images)
        inputs = inputs.to(dtype) if dtype.is_floating_point else inputs
        return self.model(inputs) if self.predict is None else self.predict(self.model, inputs)

    def outputs(self, images: Tensor) -> Tensor:
        """As :meth:`logits`, NaN and all."""
        output = self._run(images)
        if self.predict is None:
            output = first_output(output, len(images), self.samples.targets)
        if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(images):
            got = described(output)
            if isinstance(output, Tensor):
                got = f"{tuple(output.shape)}; pass predict=lambda model, images: … that returns it"
            raise InputError(f"model: expected logits of shape ({len(images)}, classes), got {got}")
        if output.shape[1] < 2:
            raise InputError(
                "model: expected at least two logits, got one; for a single logit pass "
                "predict=lambda model, x: torch.cat([-(z := model(x)), z], 1)"
            )
        return output.to(torch.float32)

    def subset(self, limit: int, seed: int) -> Subject:
        """The same model with a seeded random choice of at most ``limit`` samples."""
        return replace(self, samples=self.samples.subset(limit, seed=seed))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in pixel space and targets, batch by batch, on the model's device."""
        for start in self.starts():
            yield self.batch(start)

    def starts(self) -> range:
        """Number of the first sample of every batch."""
        return range(0, len(self.samples), self.batch_size)

    def batch(self, start: int) -> tuple[Tensor, Tensor]:
        """Images and targets of the batch that starts at a sample."""
        part = slice(start, start + (self.batch_size if self.samples.sizes is None else 1))
        images = sent(self.samples.pixels(part), self.device)
        return images, sent(self.samples.targets[part], self.device)

    def map(
        self,
        work: Callable[[int, Tensor, Tensor], Found],
        advance: Callable[[int], Any] | None = None,
    ) -> Iterator[Found]:
        """What ``work(start, images, targets)`` finds in each batch, in order.

        If several ranks measure together, each does its share of the batches and gets the
        results of all. So ``work`` returns what it finds (tensors, arrays, numbers) and changes
        nothing outside; on every rank the measurement goes the same way.

        Args:
            advance: called with the images done, in place of a progress bar of its own.
        """
        starts, count = self.starts(), len(self.samples)
        bar = self.progress(count, "image") if advance is None else nullcontext(advance)
        with bar as advance_by:
            found = self.distribute(starts, lambda start: work(start, *self.batch(start)))
            for start, one in zip(starts, found, strict=True):
                yield one
                advance_by(min(self.batch_size, count - start))

    def distribute(self, jobs: Sequence[Job], work: Callable[[Job], Found]) -> Iterator[Found]:
        """What some work on each job finds, in order; otherwise as :meth:`map`."""

        def counted(job: Job) -> tuple[Found, Tally, list[str]]:
            before, said = self.tally.passes, len(self.caveats)
            found = work(job)
            passes, self.tally.passes = self.tally.passes - before, before
            return found, Tally(passes, self.tally.classes), self.caveats[said:]

        # Counted as the results come in, whichever process did the work.
        all_found = (
            map(counted, jobs) if self.ranks is None else self.ranks.distribute(jobs, counted)
        )
        for found, tally, caveats in all_found:
            self.tally.passes += tally.passes
            self.tally.classes = tally.classes or self.tally.classes
            self.caveats.extend(one for one in caveats if one not in self.caveats)
            yield found

    @property
    def leads(self) -> bool:
        """Whether this process writes files: it measures alone or is rank 0."""
        return self.ranks is None or self.ranks.leads

    def agree(self, value: Found) -> Found:
        """Rank 0's value, on all ranks: for what they could see differently, such as a clock."""
        return value if self.ranks is None else self.ranks.broadcast(value)

    def check_targets(self, classes: int) -> None:
        """Raise :class:`InputError` for targets that the model has no logit for."""
        largest = int(self.samples.targets.max())
        if largest >= classes:
            raise InputError(
                f"labels: expected class indices from 0 to {classes - 1}, the model's "
                f"{classes} logits, got {largest}"
            )
        self.samples.warn_if_few_classes(classes)

    @contextmanager
    def progress(self, total: int, unit: str) -> Iterator[Callable[[int], Any]]:
        """A progress bar; yields a function that advances it."""
        if not self.show_progress:
            yield lambda n: None
            return
        from tqdm.auto import tqdm

        with tqdm(total=total, unit=unit, leave=False, dynamic_ncols=True, delay=0.5) as bar:
            yield bar.update


def target_rank(logits: Tensor, targets: Tensor) -> Tensor:
    """Rank of the target among the logits, 0 for the largest; ties go to the lower class.

    >>> target_rank(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5]]), torch.tensor([2, 1])).tolist()
    [1, 1]
    """
    own = logits.gather(1, targets[:, None])
    ahead = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    return ((logits > own) | ((logits == own) & ahead)).sum(1)


def default_batch_size(image_shape: tuple[int, int, int], device: str = "cpu") -> int:
    """Images per forward pass if the caller names no number; four times as many on a GPU.

    Fixed rather than found by timing, so that the same call gives the same last digit.

    >>> default_batch_size((3, 32, 32)), default_batch_size((3, 224, 224))
    (256, 16)
    """
    size = max(16, min(256, _BATCH_PIXELS // math.prod(image_shape)))
    return 4 * size if device == "cuda" else size


_NO_SAMPLES = Samples(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.int64))  # type: ignore[arg-type]


@contextmanager
def subject_of(
    model: nn.Module,
    samples: Samples | None,
    *,
    pixels: PixelSpace | None = None,
    predict: Predict | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    ranks: RankGroup | None = None,
    shared: SharedLogits | None = None,
    trial: bool = True,
) -> Iterator[Subject]:
    """A model in isolation with its samples; arguments and errors as for ``run``.

    Args:
        trial: whether the model is to answer, so that it is tried first.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model: expected a torch.nn.Module, got {type(model).__name__}; wrap a function "
            "in a Module whose forward calls it"
        )
    pixels = check_pixels(pixels)
    pixels = pixels or (samples.normalization if samples is not None else None) or PixelSpace()
    if samples is not None:
        pixels.check(samples.image_shape[0])
    if batch_size is not None:
        batch_size = checks.whole("batch_size", batch_size)
    progress = checks.flag("progress", progress)
    if predict is not None:
        checks.function("predict", predict, "predict(model, images) -> logits")
    found = known(model)
    if samples is not None and trial:
        found = try_model(model, samples, pixels=pixels, predict=predict)
    samples = samples or _NO_SAMPLES
    with isolated(model, without=found.without, writes=found.writes) as inner:
        device = device_of(inner)
        batch_size = batch_size or default_batch_size(samples.image_shape, device.type)
        batch_size = batch_size if samples.sizes is None else 1
        if ranks is not None:
            share_buffers(ranks, inner)
        subject = Subject(
            model=inner,
            samples=samples,
            pixels=pixels,
            device=device,
            batch_size=batch_size,
            predict=predict,
            show_progress=progress and (ranks is None or ranks.leads),
            ranks=ranks,
            shared=shared,
            caveats=list(found.caveats),
        )
        yield subject
        subject.check_finite()


def try_model(
    model: nn.Module,
    samples: Samples,
    *,
    pixels: PixelSpace | None = None,
    predict: Predict | None = None,
    again: bool = False,
) -> Verdict:
    """The verdict of :mod:`hfc_probe.model.trial` on a model, as it answers these samples."""

    def run(inner: nn.Module, count: int) -> Tensor:
        subject = Subject(
            inner, samples, pixels or PixelSpace(), device_of(inner), count, predict=predict
        )
        return subject.outputs(subject.batch(0)[0])

    return verdict_of(model, run, again=again)


def is_correct(subject: Subject, images: Tensor, targets: Tensor, what: str) -> Tensor:
    """Which of the images are predicted correctly, ``(N,)`` bool."""
    return target_rank(subject.logits(images, what), targets) < 1
