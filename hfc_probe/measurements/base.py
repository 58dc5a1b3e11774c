"""What every measurement and every result have in common."""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import math
import os
import re
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .. import checks
from ..errors import InputError
from ..isolation import device_of, first_tensor, isolated
from ..provenance import Tally, stamp
from ..ranks import RankGroup, share_buffers
from ..samples import PixelSpace, Samples, check_pixels
from ..summary import caution, not_above_chance, origin
from ..trial import Verdict, known, verdict_of
from ..version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Job = TypeVar("Job")
Found = TypeVar("Found")
Predict = Callable[[nn.Module, Tensor], Tensor]
logger = logging.getLogger("hfc_probe")

# Pixels of one batch where the caller names no size: 256 images of 32×32, 16 of 224×224.
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
        ranks: those that measure together, see :meth:`share`; None for one alone.
        caveats: sentences on what cannot be trusted about what is found; whoever works on the
            subject may add one, and the result says them first.
        tally: what was done with the model.
    """

    model: nn.Module
    samples: Samples
    pixels: PixelSpace
    device: torch.device
    batch_size: int
    predict: Predict | None = None
    show_progress: bool = False
    ranks: RankGroup | None = None
    caveats: list[str] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def logits(self, images: Tensor, what: str = "original") -> Tensor:
        """Logits ``(N, K)`` in float32 for images in pixel space, not clipped.

        Raises:
            InputError: an output that is no ``(N, K)`` tensor, or NaN among the logits.
        """
        logits = self.outputs(images)
        bad = int(logits.isnan().any(1).sum())
        if bad:
            raise InputError(
                f"model: expected finite logits, got NaN for {bad} of {len(images)} {what} "
                "images; look for diverged training or a wrong normalisation"
            )
        self.tally.passes += len(logits)
        self.tally.classes = logits.shape[1]
        return logits

    def outputs(self, images: Tensor) -> Tensor:
        """As :meth:`logits`, NaN and all."""
        dtype = getattr(first_tensor(self.model), "dtype", images.dtype)
        inputs = self.pixels.normalize(images)
        inputs = inputs.to(dtype) if dtype.is_floating_point else inputs
        if self.predict is not None:
            output: Any = self.predict(self.model, inputs)
        else:
            output = _first_output(self.model(inputs), len(images), self.samples.targets)
        if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(images):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            call = "…"
            if isinstance(output, Mapping) and output:
                shape = f"{shape} with {', '.join(map(repr, output))}"
                call = f"model(images)[{next(iter(output))!r}]"
            raise InputError(
                f"model: expected logits of shape ({len(images)}, classes), got {shape}; pass "
                f"predict=lambda model, images: {call} that returns them"
            )
        if output.shape[1] < 2:
            raise InputError(
                "model: expected at least two logits, got one; for a single logit pass "
                "predict=lambda model, x: torch.cat([-(z := model(x)), z], 1)"
            )
        return output.to(torch.float32)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images in pixel space and targets, batch by batch, on the model's device."""
        for start in self.starts():
            yield self.batch(start)

    def starts(self) -> range:
        """Number of the first sample of every batch."""
        return range(0, len(self.samples), self.batch_size)

    def batch(self, start: int) -> tuple[Tensor, Tensor]:
        """Images and targets of the batch that starts at a sample."""
        part = slice(start, start + self.batch_size)
        images = self.samples.pixels(part).to(self.device, non_blocking=True)
        return images, self.samples.targets[part].to(self.device, non_blocking=True)

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
        with self.progress(count, "image") if advance is None else nullcontext(advance) as forth:
            found = self.share(starts, lambda start: work(start, *self.batch(start)))
            for start, one in zip(starts, found, strict=True):
                yield one
                forth(min(self.batch_size, count - start))

    def share(self, jobs: Sequence[Job], work: Callable[[Job], Found]) -> Iterator[Found]:
        """What some work on each job finds, in order; otherwise as :meth:`map`."""

        def counted(job: Job) -> tuple[Found, Tally, list[str]]:
            before, said = self.tally.passes, len(self.caveats)
            found = work(job)
            passes, self.tally.passes = self.tally.passes - before, before
            return found, Tally(passes, self.tally.classes), self.caveats[said:]

        # Counted as the results come in, whichever process did the work.
        all_found = map(counted, jobs) if self.ranks is None else self.ranks.share(jobs, counted)
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


def rank(logits: Tensor, targets: Tensor) -> Tensor:
    """Place of the target among the logits, 0 for the largest; ties go to the lower class.

    >>> rank(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.5, 0.5]]), torch.tensor([2, 1])).tolist()
    [1, 1]
    """
    own = logits.gather(1, targets[:, None])
    ahead = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    return ((logits > own) | ((logits == own) & ahead)).sum(1)


def _first_output(output: Any, count: int, targets: Tensor) -> Any:
    """What a model returns, or the logits among it; a tuple's first unless others fit as well."""
    if isinstance(output, Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if isinstance(output, (tuple, list)) and output:
        _check_first(output, count, int(targets.max()) + 1)
        return output[0]
    return output


def _check_first(outputs: Sequence[Any], count: int, needed: int) -> None:
    """Refuse a tuple in which not the first tensor may be the logits: (features, logits), say.

    Features have more columns than there are classes, or as few as happen to be enough for the
    labels seen. So the first passes if no other of another width is possible, or if it is the
    narrowest possible and the labels use more than half of its columns.
    """
    widths = {
        place: one.shape[1]
        for place, one in enumerate(outputs)
        if isinstance(one, Tensor) and one.dim() == 2 and len(one) == count
        if one.is_floating_point() and one.shape[1] >= max(2, needed)
    }
    if not widths or set(widths.values()) == {widths.get(0)}:
        return
    likely = min(widths, key=lambda place: widths[place])
    if likely == 0 and needed > widths[0] / 2:
        return
    shapes = ", ".join(
        str(tuple(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in outputs
    )
    raise InputError(
        f"model: expected one tensor of logits, got {len(outputs)} outputs ({shapes}), and labels "
        f"up to {needed - 1} do not tell which are the logits; pass "
        f"predict=lambda model, images: model(images)[{likely}], if it is number {likely}"
    )


@dataclass(frozen=True)
class Measurement(ABC):
    """Settings of one measurement; :meth:`measure` runs it.

    Write your own as a frozen dataclass with a :meth:`compute`; override :attr:`needs_data`
    if it looks at weights alone, :meth:`cost` and :meth:`overhead` to tell the budget what it
    costs.
    """

    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.plain(self)

    @property
    def name(self) -> str:
        """The class name in snake case: the measurement's name in logs and files.

        >>> from hfc_probe import FrequencyAccuracy
        >>> FrequencyAccuracy().name
        'frequency_accuracy'
        """
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__).lower()

    def measure(
        self,
        model: nn.Module,
        data: Any = None,
        *,
        pixels: PixelSpace | None = None,
        predict: Predict | None = None,
        limit: int | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Result:
        """Measure a model; it is left exactly as it was (see :mod:`hfc_probe.isolation`).

        Args:
            model: any ``nn.Module``, in any mode, on any device, wrapped or not.
            data: an iterable of batches as the model eats them, or :class:`Samples`.
            pixels: the model's normalisation. With a loader, None means: as found in its
                transforms, else none.
            predict: ``predict(model, images) -> logits`` where the model returns neither a
                tensor, nor a tuple that starts with one, nor something with ``.logits``.
            limit: at most so many samples (a seeded random choice).
            batch_size: images per forward pass; halved and tried again where memory runs out.
            progress: show a progress bar on standard error.

        Raises:
            InputError: data, labels or a model that cannot be measured, in one sentence.
        """
        samples = None
        if data is not None:
            samples = Samples.collect(data, pixels=pixels, limit=limit)
            pixels = samples.normalization
        return self.run(
            model, samples, pixels=pixels, predict=predict, batch_size=batch_size, progress=progress
        )

    def run(
        self,
        model: nn.Module,
        samples: Samples | None,
        *,
        pixels: PixelSpace | None = None,
        predict: Predict | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        ranks: RankGroup | None = None,
        step: int | None = None,
        epoch: int | None = None,
    ) -> Result:
        """As :meth:`measure`, on samples that were collected.

        Args:
            ranks: those that run this very measurement now, each with the same samples; each
                does a share of the passes, and all return the result.
            step, epoch: of the training, for the result's provenance.
        """
        began = time.perf_counter()
        if samples is None and self.needs_data:
            raise InputError(
                f"{type(self).__name__}: expected data (a loader or Samples), got none"
            )
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
                        trial=self.needs_data,
                    ) as subject,
                ):
                    batch_size = subject.batch_size
                    return stamp(
                        self.compute(subject),
                        subject,
                        samples if self.needs_data else None,
                        seconds=time.perf_counter() - began,
                        step=step,
                        epoch=epoch,
                    )
            except (torch.OutOfMemoryError, MemoryError):
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
    def variant(self) -> str:
        """Tells apart two measurements of one class in one probe; they must differ in it."""
        return ""

    @abstractmethod
    def compute(self, subject: Subject) -> Result:
        """The measurement itself, on a model in isolation."""

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        """How many single-image forward passes it takes: what the budget reckons with.

        A backward pass, which takes about as long as two forward ones, counts as two. Where the
        number depends on what is found, this is the most it can be.
        """
        return samples

    def overhead(self, samples: int, image_shape: tuple[int, int, int]) -> float:
        """Seconds that it takes beside its passes, roughly, where they are worth a mention."""
        return 0.0


def default_batch_size(image_shape: tuple[int, int, int], device: str = "cpu") -> int:
    """Images per forward pass where the caller names no number; four times as many on a GPU.

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
        where = device_of(inner)
        batch_size = batch_size or default_batch_size(samples.image_shape, where.type)
        if ranks is not None:
            share_buffers(ranks, inner)
        yield Subject(
            model=inner,
            samples=samples,
            pixels=pixels,
            device=where,
            batch_size=batch_size,
            predict=predict,
            show_progress=progress and (ranks is None or ranks.leads),
            ranks=ranks,
            caveats=list(found.caveats),
        )


def try_model(
    model: nn.Module,
    samples: Samples,
    *,
    pixels: PixelSpace | None = None,
    predict: Predict | None = None,
    again: bool = False,
) -> Verdict:
    """The verdict of :mod:`hfc_probe.trial` on a model, as it answers these samples."""

    def run(inner: nn.Module, count: int) -> Tensor:
        subject = Subject(
            inner, samples, pixels or PixelSpace(), device_of(inner), count, predict=predict
        )
        return subject.outputs(subject.batch(0)[0])

    return verdict_of(model, run, again=again)


@dataclass(frozen=True, eq=False)
class Result(ABC):
    """What a measurement found: numbers, arrays, a figure, words.

    A subclass needs :meth:`scalars` alone; the arrays, table, figure and sentence are made of
    them unless it has better ones.

    Attributes:
        settings: the measurement's settings, by name.
        samples: number of images looked at.
        provenance: what was measured, on what, how and when, as plain values.
    """

    settings: Mapping[str, Any]
    samples: int
    provenance: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def caveats(self) -> tuple[str, ...]:
        """What cannot be trusted about these numbers; said before anything else is."""
        return tuple(self.provenance.get("caveats", ()))

    @abstractmethod
    def scalars(self) -> dict[str, float]:
        """TensorBoard tags and their values."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Every array by name; the class's docstring gives shapes and units."""
        return {tag: np.asarray(value) for tag, value in self.scalars().items()}

    def figure(self) -> Figure:
        """A matplotlib figure, not attached to pyplot."""
        from ..plots import scalars_figure

        return scalars_figure(self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column heads and rows of the table that ``print`` shows."""
        rows = [[tag, f"{value:.4g}", ""] for tag, value in self.scalars().items()]
        for row in rows:
            if row[0] in self.intervals():
                row[2] = "[{:.4g}, {:.4g}]".format(*self.intervals()[row[0]])
        if not self.intervals():
            return ["number", "value"], [row[:2] for row in rows]
        return ["number", "value", "95 % interval"], rows

    def sentence(self) -> str:
        """What the numbers say: :meth:`verdict`, unless the model is not above chance."""
        return not_above_chance(self) or self.verdict()

    def original(self) -> tuple[int, int, int] | None:
        """How the model does on the original images: right, of how many, within the top k.

        A model that is not above chance there is not judged. None: not measured, or nothing
        that a guess could reach.
        """
        return None

    def per_image(self) -> dict[str, NDArray[np.bool_]]:
        """Outcome ``(N,)`` on every image, by tag, for those proportions that have one."""
        return {}

    def verdict(self) -> str:
        """What the numbers say of a model that works, in one sentence with its figures."""
        said = ", ".join(f"{tag} is {value:.4g}" for tag, value in self.scalars().items())
        return f"On {self.samples} images {said}."

    def histograms(self) -> dict[str, NDArray[Any]]:
        """TensorBoard tags and the values whose distribution they show."""
        return {}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals of those of :meth:`scalars` that have one, by tag."""
        return {}

    def images(self) -> dict[str, Any]:
        """TensorBoard tags and pictures: figures, or uint8 arrays ``(H, W)`` or ``(H, W, 3)``."""
        return {}

    def axes(self) -> dict[str, dict[str, Any]]:
        """For arrays that belong in the event file: their axes and units, by array name."""
        return {}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What the event file keeps of :meth:`arrays`: those that :meth:`axes` describes."""
        arrays = self.arrays()
        return {name: arrays[name] for name in self.axes()}

    @property
    def group(self) -> str:
        """First part of its tensors' tags in the event file; the measurement's name."""
        return self.name

    @property
    def name(self) -> str:
        """The measurement's name, as in :attr:`Measurement.name`."""
        # Without the suffix first, which an abbreviation (SVDResult) would swallow.
        return re.sub(
            r"(?<=[a-z0-9])(?=[A-Z])", "_", type(self).__name__.removesuffix("Result")
        ).lower()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, ready for JSON; NaN becomes None.

        ``per_image`` holds :meth:`per_image` as base64 of ``np.packbits``.
        """
        return {
            "hfc_probe": __version__,
            "measurement": self.name,
            "settings": plain(dict(self.settings)),
            "samples": self.samples,
            "provenance": plain(dict(self.provenance)),
            "summary": self.sentence(),
            "scalars": plain(self.scalars()),
            "intervals": plain(self.intervals()),
            "arrays": plain(self.arrays()),
            "per_image": {
                tag: base64.b64encode(np.packbits(outcome).tobytes()).decode()
                for tag, outcome in self.per_image().items()
            },
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_dict` as JSON; a file is either whole or not there.

        Raises:
            InputError: a path that cannot be written.
        """
        text = json.dumps(self.to_dict(), allow_nan=False, ensure_ascii=False)
        return write_atomically(Path(path), text.encode())

    def log(self, writer: Any, step: int) -> None:
        """Write into TensorBoard; see :func:`hfc_probe.tensorboard.log`."""
        from ..tensorboard import log

        log(self, writer, step)

    def __str__(self) -> str:
        from tabulate import tabulate

        heads, rows = self.table()
        align = ["left"] + ["right"] * (len(heads) - 1)
        body = tabulate(rows, heads, tablefmt="simple", colalign=align, disable_numparse=True)
        parts = [self._title(), *map(caution, self.caveats), body, self.sentence()]
        return "\n".join([*parts, *filter(None, [origin(self)])])

    def _repr_html_(self) -> str:
        import html
        import io

        from tabulate import tabulate

        heads, rows = self.table()
        body = tabulate(rows, heads, tablefmt="html", disable_numparse=True)
        buffer = io.BytesIO()
        self.figure().savefig(buffer, format="png", dpi=100)
        picture = base64.b64encode(buffer.getvalue()).decode()
        cautions = "".join(f"<p><b>{html.escape(caution(one))}</b></p>" for one in self.caveats)
        return (
            f"<h4>{html.escape(self._title())}</h4>{cautions}{body}"
            f"<p>{html.escape(self.sentence())}</p><p>{html.escape(origin(self))}</p>"
            f'<img alt="{html.escape(self.name)}" src="data:image/png;base64,{picture}">'
        )

    def _title(self) -> str:
        return self.name.replace("_", " ").capitalize()


def settings_of(measurement: Measurement) -> dict[str, Any]:
    """A measurement's settings by name."""
    return {f.name: getattr(measurement, f.name) for f in dataclasses.fields(measurement)}


def plain(value: Any) -> Any:
    """Arrays to lists, NumPy numbers to Python's, NaN and infinity to None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file through a temporary one beside it, making its directory."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(
            f"output: expected a place that can be written, got {path} ({error.strerror}); "
            "choose another"
        ) from error
    return path
