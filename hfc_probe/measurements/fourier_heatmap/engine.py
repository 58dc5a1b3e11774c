"""Passes of the Fourier heatmap: perturbed images through the model, whatever estimator asks."""

from __future__ import annotations

import logging
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ... import fourier
from ...data.normalization import LARGEST
from ...data.samples import Samples
from ...ground.devices import sent
from ...ground.errors import InputError
from ...model.subject import Job, Subject, target_rank

logger = logging.getLogger("hfc_probe")


Score = Callable[[nn.Module, Tensor, Tensor], Tensor]


# Bytes of basis images and of signs that are kept for the next batches.
_HELD_BYTES = 64 << 20


# Images of the pair of calls that shows whether the model answers the same twice.
TWICE = 2


@dataclass(frozen=True)
class Outcome:
    """What forward passes found, one row per (direction, image) pair.

    Attributes:
        wrong: ``(n, k)`` bool, one column per k of top-k; the first is what the map shows.
            A score that is a loss has no columns.
        loss: ``(n,)`` float32: cross-entropy, or the score.
        margin: ``(n,)`` float32: the target's logit minus the largest other (the k-th largest for
            top-k), below 0 for an error; of a score that is a loss the loss, of others NaN.
    """

    wrong: Tensor
    loss: Tensor
    margin: Tensor


class Engine:
    """Evaluates (direction, image) pairs of one subject.

    Samples go to the model's device once, in the form they are held in. Basis images and
    signs are made when a direction is first needed and forgotten when memory asks for it.
    A batch that does not fit in memory is halved, and later batches stay at that size. Jobs that
    are shared do not: processes differ in the memory they have.

    Args:
        subject: the model in isolation.
        samples: the images.
        directions: (i, j) of each direction, one of each pair ±(i, j).
        norm: L2 norm of the perturbation per channel.
        seed: of the signs.
        topk: ks of the errors counted.
        score: ``score(model, inputs, targets)`` in place of top-k error and cross-entropy.
        autocast: run the model in bfloat16 if autocast allows.
        channels_last: hand the model its input in that memory format.

    Attributes:
        differences: whether scores are what noise changes, of either sign, and no losses.
        about: what the numbers depend on that is in none of the arguments; a map of another is not
            continued.
    """

    differences = False
    about = ""

    def __init__(
        self,
        subject: Subject,
        samples: Samples,
        directions: list[tuple[int, int]],
        *,
        norm: float,
        seed: int,
        topk: tuple[int, ...] = (1,),
        score: Score | None = None,
        autocast: bool = False,
        channels_last: bool = False,
    ) -> None:
        self.subject = replace(subject, samples=samples)
        self.samples = samples
        self.directions = directions
        self.norm, self.seed, self.topk, self.score = norm, seed, topk, score
        self.autocast, self.channels_last = autocast, channels_last
        self.batch_size = subject.batch_size
        self.forwards = 0
        self.device = subject.device
        self._images = samples.images.to(self.device)
        self._targets = samples.targets.to(self.device)
        self._waves = _Held(self._wave)
        self._signs = _Held(self._direction_signs)

    def clean(self) -> Outcome:
        """All images without noise; checks targets, and that the model answers the same twice.

        Raises:
            InputError: targets beyond the logits, a model that is not deterministic.
        """
        self._check_repeatable()
        size = self.subject.batch_size

        def evaluate_batch(start: int) -> Outcome:
            part = slice(start, min(start + size, len(self.samples)))
            with self._precision():
                found = self._forward(
                    partial(self._pixels, part), self._targets[part], "original", start
                )
            if start == 0 and self.score is None:
                self._warn_if_fewer_samples_than_classes()
            return found

        return _joined(list(self.distribute(range(0, len(self.samples), size), evaluate_batch)))

    def distribute(self, jobs: Sequence[Job], work: Callable[[Job], Outcome]) -> Iterator[Outcome]:
        """What each job finds, in order, whichever process does it; its passes are counted here."""

        def counted(job: Job) -> tuple[Outcome, int]:
            before = self.forwards
            found = work(job)
            passes, self.forwards = self.forwards - before, before
            return found, passes

        for found, passes in self.subject.distribute(jobs, counted):
            self.forwards += passes
            yield found

    def run(self, cells: NDArray[np.int64], images: NDArray[np.int64]) -> Outcome:
        """Pairs of direction number and image number, in any order.

        Pairs of one direction should be neighbours: each direction's basis image is then
        looked up once a batch.
        """
        parts = []
        start = 0
        with self._precision():
            while start < len(cells):
                stop = min(start + self.batch_size, len(cells))
                which, part = cells[start:stop], images[start:stop]
                index = self._index(part)
                make = partial(self._perturbed, which, part, index)
                found = self._forward(make, self._targets[index], "perturbed")
                parts.append(found)
                start = stop
        return _joined(parts)

    def _index(self, images: NDArray[np.int64]) -> Any:
        """A slice if the images are in a row, which needs no copy."""
        if len(images) and images[-1] - images[0] == len(images) - 1:
            run = slice(int(images[0]), int(images[-1]) + 1)
            if len(images) < 3 or bool((np.diff(images) == 1).all()):
                return run
        return sent(torch.from_numpy(images), self.device)

    def _pixels(self, index: Any) -> Tensor:
        """A copy of some of the images as floats in [0, 1]."""
        images = self._images[index]
        if images.dtype in LARGEST:
            return images.to(torch.float32).div_(LARGEST[images.dtype])
        wide = images.to(torch.promote_types(images.dtype, torch.float32))
        return wide.clone() if wide is images and isinstance(index, slice) else wide

    def _perturbed(self, cells: NDArray[np.int64], images: NDArray[np.int64], index: Any) -> Tensor:
        """``clip(x + s·v·U, 0, 1)`` of each pair, ``(n, C, H, W)``."""
        out = self._pixels(index)
        bounds = np.flatnonzero(np.diff(cells)) + 1
        starts = [0, *bounds.tolist()]
        runs = list(zip(starts, [*starts[1:], len(cells)], strict=True))
        signs = torch.cat(
            [self._signs[int(cells[a])][torch.from_numpy(images[a:b])] for a, b in runs]
        )
        signs = sent(signs.to(out.dtype), self.device)
        if len(runs) == 1:
            out.addcmul_(signs, self._waves[int(cells[0])].to(out.dtype))
        else:
            waves = torch.stack([self._waves[int(cells[a])] for a, _ in runs])
            which = torch.repeat_interleave(torch.tensor([b - a for a, b in runs], device="cpu"))
            waves = waves[sent(which, self.device)][:, None]
            out.addcmul_(signs, waves.to(out.dtype))
        return out.clamp_(0, 1)

    def _forward(
        self, make: Callable[[], Tensor], targets: Tensor, what: str, start: int | None = None
    ) -> Outcome:
        """One batch; if memory does not suffice, its halves.

        Args:
            start: number of its first sample, if it is a batch of the samples as they are.
        """
        try:
            return self._evaluate(make(), targets, what, start)
        except (torch.cuda.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if len(targets) == 1:
                raise InputError(
                    "FourierHeatmap: expected memory for a batch of one image, got none; choose "
                    "smaller images or another device"
                ) from error
        # Outside the handler, so that the failed pass's memory is not held by its traceback.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        half = -(-len(targets) // 2)
        self.batch_size = min(self.batch_size, half)
        logger.info("hfc_probe: out of memory; batches of %d from here on", self.batch_size)
        images = make()
        return _joined(
            [
                self._forward(partial(images.__getitem__, p), targets[p], what)
                for p in (slice(0, half), slice(half, None))
            ]
        )

    def _evaluate(
        self, images: Tensor, targets: Tensor, what: str, start: int | None = None
    ) -> Outcome:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if self.score is not None:
            scored = self._scored(images, targets)
            self.forwards += len(images)
            return scored
        if start is None or self.autocast or self.channels_last:
            logits = self.subject.logits(images, what)
            if start == 0:
                self.subject.check_targets(logits.shape[1])
        else:
            logits = self.subject.original(start, images)
        if start == 0:
            self.subject.check_scale(logits)
        self.forwards += len(images)
        self._classes = logits.shape[1]
        ranks = target_rank(logits, targets)
        wrong = torch.stack([ranks >= k for k in self.topk], 1)
        own = logits.gather(1, targets[:, None])
        others = logits.scatter(1, targets[:, None], -math.inf)
        least = others.topk(min(self.topk[0], logits.shape[1]), 1).values[:, -1]
        return Outcome(wrong, F.cross_entropy(logits, targets, reduction="none"), own[:, 0] - least)

    def _scored(self, images: Tensor, targets: Tensor) -> Outcome:
        assert self.score is not None
        values = self.score(self.subject.model, self.subject.pixels.normalize(images), targets)
        if not isinstance(values, Tensor) or values.shape != (len(images),):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"score: expected one number per image, a tensor of shape ({len(images)},), got "
                f"{got}"
            )
        if values.is_complex() or (values.is_floating_point() and bool(values.isnan().any())):
            raise InputError("score: expected real finite numbers, got NaN or complex ones")
        nothing = torch.full_like(values, math.nan, dtype=torch.float32)
        if values.dtype == torch.bool:
            return Outcome(~values[:, None], (~values).to(torch.float32), nothing)
        empty = torch.zeros(len(values), 0, dtype=torch.bool, device=values.device)
        loss = values.detach().to(torch.float32)
        return Outcome(empty, loss, loss)

    def _warn_if_fewer_samples_than_classes(self) -> None:
        if len(self.samples) < self._classes:
            warnings.warn(
                f"FourierHeatmap looks at {len(self.samples)} samples of a model with "
                f"{self._classes} classes: most classes have none, and the error rate is that of "
                "the few that have; pass more samples",
                stacklevel=2,
            )

    def _check_repeatable(self) -> None:
        part = slice(0, min(TWICE, self.batch_size, len(self.samples)))
        with self._precision():
            first, second = (
                self._forward(lambda: self._pixels(part), self._targets[part], "original")
                for _ in range(2)
            )
        if not torch.allclose(first.loss, second.loss, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise InputError(
                "model: expected the same output for the same images in evaluation mode, got "
                f"losses that differ by up to {float((first.loss - second.loss).abs().max()):.2g} "
                "between two identical calls; look for dropout or noise that ignores model.eval()"
            )

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.autocast:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _wave(self, cell: int) -> Tensor:
        size = self.samples.image_shape[1:]
        return self.norm * fourier.basis(*self.directions[cell], *size, device=self.device)

    def _direction_signs(self, cell: int) -> Tensor:
        channels, height, width = self.samples.image_shape
        count = len(self.samples)
        return direction_signs(
            self.seed, *self.directions[cell], height, width, count, channels
        ).to(torch.int8)

    def sign_patterns(self) -> NDArray[np.int64]:
        """Which channels go against the first, as a number; ``(directions, images)``.

        For three channels 0 is grey noise, 1 to 3 have one channel reversed.
        """
        rows = []
        for cell in range(len(self.directions)):
            signs = self._signs[cell][:, :, 0, 0]
            against = (signs[:, 1:] != signs[:, :1]).numpy()
            rows.append(against @ (1 << np.arange(against.shape[1], dtype=np.int64)))
        return np.stack(rows)


class _Held:
    """The latest tensors of some function of the direction, up to a number of bytes."""

    def __init__(self, make: Callable[[int], Tensor]) -> None:
        self._make = make
        self._held: OrderedDict[int, Tensor] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, cell: int) -> Tensor:
        found = self._held.get(cell)
        if found is not None:
            self._held.move_to_end(cell)
            return found
        made = self._make(cell)
        self._held[cell] = made
        self._bytes += made.nbytes
        while self._bytes > _HELD_BYTES and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return made


def direction_signs(
    seed: int, i: int, j: int, height: int, width: int, count: int, channels: int
) -> Tensor:
    """Random signs per image and channel for direction ±(i, j), ``(N, C, 1, 1)`` of ±1."""
    rng = np.random.default_rng((seed, i % height, j % width))
    signs = 2 * rng.integers(0, 2, size=(count, channels, 1, 1), dtype=np.int8) - 1
    return torch.from_numpy(signs.astype(np.float32))


def _joined(parts: list[Outcome]) -> Outcome:
    if len(parts) == 1:
        return parts[0]
    return Outcome(
        torch.cat([part.wrong for part in parts]),
        torch.cat([part.loss for part in parts]),
        torch.cat([part.margin for part in parts]),
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Also the CPU's own message, which is a plain RuntimeError."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
