"""Error under additive Fourier-basis noise, direction by direction (Yin et al., NeurIPS 2019)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from ...core.measurement import Measurement
from ...ground import checks
from ...ground.errors import InputError
from ...model.subject import Subject
from ..score_targets import is_clean
from ..scores import IMAGE_SCORES, SetScore, adapted, takes_model
from ..scores import Score as ImageScorer
from . import sequential
from .engine import TWICE, Engine, Score, direction_signs
from .grid import Grid
from .result import Estimator, FourierHeatmapResult
from .run import FEWEST_PER_CELL, Run

__all__ = ["FourierHeatmap", "FourierHeatmapResult", "default_norm", "direction_signs"]

# Of the model's fits of a first map, for each pass and each cell, in ten classes on one core.
_FIT_SECONDS_PER_PASS, _FIT_SECONDS_PER_CELL = 1.5e-4, 1.5e-3


@dataclass(frozen=True)
class FourierHeatmap(Measurement):
    """Error rate of ``clip(x + s·v·U_ij, 0, 1)`` for every frequency (i, j).

    Every pair ±(i, j), which is one direction, is measured once. The sign s is drawn per
    image and channel from ``seed`` and the direction alone: results do not depend on batch
    size, device or crop.

    How much is spent decides the estimator, and the result says which it was:

    - nothing given: **exhaustive**, every image in every direction. Intervals are Wilson's
      and speak of images like the given ones.
    - ``precision``: **sequential**. Each cell looks at images in random order, without
      replacement, until its 95 % interval is within ± ``precision``; the most uncertain
      cells come first. Intervals speak of the given images, that is of what the exhaustive
      measurement would find, and are exact under this very stopping rule
      (:mod:`hfc_probe.measurements.fourier_heatmap.sequential`).
    - ``forwards`` or ``seconds``: **model**. A fixed effort is spread over all cells, and a
      model over cells and images (:mod:`hfc_probe.measurements.fourier_heatmap.model`) makes the
      most of it; cells where it does not hold are sampled more and shown as sampled.
      Intervals speak of the given images. In a probe a later map starts from the last one and,
      while the network changes little, stops long before ``forwards`` (not with ``seconds``).
    - ``radial``: **rings**. Error against distance from DC only, from directions drawn at
      random within each ring one cycle wide.

    Args:
        norm: v, the L2 norm of the perturbation of one channel in pixel space; None: by
            image size, the paper's 4.0 at 32×32 and 15.7 at 224×224
            (:func:`default_norm`).
        samples: maximum number of images, a seeded random choice.
        precision: half-width of the 95 % interval that every cell must reach, in (0, 0.5).
        forwards: number of single-image forward passes to spend, all included.
        seconds: time to spend, in place of a number of passes; a first round over all cells
            is made whatever it takes.
        crop: side (or height and width) of the centred window of frequencies that is
            measured; None: all of them. The paper shows 63 at 224×224.
        stride: measure every n-th frequency of each axis, DC among them.
        radial: rings in place of cells; with ``precision`` or ``forwards`` to that effort,
            else at a hundredth of the exhaustive one.
        topk: a prediction is an error when the target is not among the k largest logits;
            of several k the first is the one that figures, intervals and estimators use.
        score: in place of top-k errors, for other tasks: ``score(outputs, targets) -> (n,)`` or
            a name, both as for :class:`ImageScore`, or ``score(model, inputs, targets) -> (n,)``,
            which calls the model itself. A bool per image, True if right, or a number, a loss,
            which is measured exhaustively or by the model (``forwards``, ``seconds``).
        targets: of the score, as for :class:`ImageScore`.
        autocast: run the model in bfloat16 if autocast allows. Changes predictions a little.
        channels_last: hand over images in that memory format. May change predictions a little.
        checkpoint: a file in which an interrupted map is kept, to be continued by the next
            call with the same model, images and settings; removed when the map is done.
        watch: called with the result so far whenever the map has sharpened.
        seed: of the signs, the choice of samples and their order.

    Raises:
        InputError: a norm that is not positive; samples, crop, stride, k, forwards or seconds
            out of range; two efforts at once; when measuring, a crop larger than the image,
            images smaller than 2 pixels, an effort that the samples cannot serve, a model
            that answers differently to identical calls.

    Source: Yin et al., NeurIPS 2019, §3. Their published code differs: its waves have phase π/4
    (here 0, see :func:`hfc_probe.fourier.basis`), it clips only if asked to, and with random
    signs it leaves the norm at 1.
    """

    norm: float | None = 4.0
    samples: int = 1000
    precision: float | None = None
    forwards: int | None = None
    seconds: float | None = None
    crop: int | tuple[int, int] | None = None
    stride: int = 1
    radial: bool = False
    topk: int | tuple[int, ...] = 1
    score: Score | ImageScorer | str | None = None
    autocast: bool = False
    channels_last: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    watch: Callable[[FourierHeatmapResult], None] | None = field(default=None, repr=False)
    seed: int = 0
    targets: Tensor | str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("norm", "seconds"):
            if (value := getattr(self, name)) is not None:
                value = checks.number(name, value, 0, math.inf, open_low=True, open_high=True)
                checks.keep(self, **{name: value})
        if self.precision is not None:
            value = checks.number("precision", self.precision, 1e-4, 0.5, open_high=True)
            checks.keep(self, precision=value)
        checks.keep(self, stride=checks.whole("stride", self.stride))
        if self.forwards is not None:
            checks.keep(self, forwards=checks.whole("forwards", self.forwards))
        checks.keep(self, topk=checks.wholes("topk", self.topk, increasing=False))
        efforts = [n for n in ("precision", "forwards", "seconds") if getattr(self, n) is not None]
        if len(efforts) > 1:
            raise InputError(
                f"FourierHeatmap: expected one of precision, forwards and seconds, got "
                f"{' and '.join(efforts)}; they say when to stop"
            )
        if self.radial and self.seconds is not None:
            raise InputError("radial: expected precision= or forwards= with it, got seconds=")
        if isinstance(self.score, str):
            checks.choice("score", self.score, IMAGE_SCORES)
        elif self.score is not None:
            if isinstance(self.score, SetScore):
                raise InputError(
                    "score: expected a score of single images, got a SetScore, which the heatmap "
                    "has no cells for; measure it with ImageScore"
                )
            form = "score(outputs, targets) or (model, inputs, targets) -> one number per image"
            checks.function("score", self.score, form)
        if self.targets is not None:
            is_clean(self.targets)
            if self.score is None or takes_model(self.score):
                raise InputError(
                    "targets: expected score= with them, a name or score(outputs, targets); top-k "
                    "errors and score(model, inputs, targets) have the targets of the samples"
                )
        if self.watch is not None:
            checks.function("watch", self.watch, "a function of the result so far")
        if self.checkpoint is not None:
            checks.file("checkpoint", self.checkpoint)
        if self.crop is not None:
            sides = checks.wholes("crop", self.crop, increasing=False)
            if len(sides) > 2:
                raise InputError(
                    f"crop: expected a side or (height, width), got {checks.shown(self.crop)}"
                )
            checks.keep(self, crop=(sides[0], sides[-1]))

    @property
    def reads_logits(self) -> bool:
        return self.score is None

    @property
    def variant(self) -> str:
        return "" if self.norm is None else f"{self.norm:.1f}"

    @property
    def estimator(self) -> Estimator:
        """Which one the settings ask for."""
        if self.radial:
            return "rings"
        if self.precision is not None:
            return "sequential"
        return "exhaustive" if self.forwards is None and self.seconds is None else "model"

    def validate(self, model: nn.Module, image_shape: tuple[int, int, int] | None) -> None:
        if image_shape is not None:
            self.grid(*image_shape[1:])

    def window(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the map for images of that size."""
        return self.grid(height, width).shape

    def grid(self, height: int, width: int) -> Grid:
        """The cells of the map for images of that size."""
        if height < 2 or width < 2:
            raise InputError(
                f"FourierHeatmap: expected images of at least 2×2 pixels, got {height}×{width}"
            )
        rows, columns = (height, width) if self.crop is None else self.crop  # type: ignore[misc]
        if rows > height or columns > width:
            raise InputError(
                f"crop: expected at most the image's {height}×{width}, got {rows}×{columns}"
            )
        return Grid(height, width, rows, columns, self.stride)

    def directions(self, height: int, width: int) -> list[tuple[int, int]]:
        """One (i, j) of every pair ±(i, j) that the map shows."""
        return self.grid(height, width).directions

    def cost(self, samples: int, image_shape: tuple[int, int, int]) -> int:
        count = min(samples, self.samples)
        grid = self.grid(*image_shape[1:])
        walks = len(grid.directions)
        clean = count + 2 * min(TWICE, count)
        if self.forwards is not None:
            return min(self.forwards, clean + count * walks)
        if self.seconds is not None:  # the least it takes; the time itself is its overhead
            return clean + min(FEWEST_PER_CELL, count) * walks
        if self.radial:
            rings = len(set(grid.rings()))
            if self.precision is None:
                return clean + min(max(rings, count * walks // 100), count * rings)
            walks = rings
        if self.precision is not None:
            return clean + int(count * walks * sequential.expected_share(count, self.precision))
        return clean + count * walks

    def overhead(self, samples: int, image_shape: tuple[int, int, int]) -> float:
        if self.seconds is not None:
            return float(self.seconds)
        if self.estimator != "model":
            return 0.0
        cells = len(self.grid(*image_shape[1:]).directions)
        passes = self.cost(samples, image_shape)
        return _FIT_SECONDS_PER_PASS * passes + _FIT_SECONDS_PER_CELL * cells

    def compute(self, subject: Subject) -> FourierHeatmapResult:
        began = time.perf_counter()
        samples = subject.samples.subset(self.samples, seed=self.seed)
        _, height, width = samples.image_shape
        grid = self.grid(height, width)
        norm = default_norm(height, width) if self.norm is None else float(self.norm)
        assert isinstance(self.topk, tuple)
        self._check_effort(len(samples), len(grid.directions))
        score = self.score
        if score is not None and not takes_model(score):
            score, samples = adapted(score, self.targets, subject, samples)
        engine = Engine(
            subject,
            samples,
            grid.directions,
            norm=norm,
            seed=self.seed,
            topk=self.topk,
            score=score,  # type: ignore[arg-type]  # by now in the engine's form
            autocast=self.autocast,
            channels_last=self.channels_last,
        )
        run = Run(self, engine, grid, norm, began)
        if self.estimator == "exhaustive":
            return run.exhaustive()
        if self.estimator == "sequential":
            return run.sequential()
        if self.estimator == "rings":
            return run.rings()
        run.remember(subject.last, subject.samples)
        return run.model()

    def _check_effort(self, count: int, directions: int) -> None:
        """Raise :class:`InputError` for an effort that the samples cannot serve."""
        if self.precision is not None:
            finest = sequential.finest(count)
            if self.precision < finest:
                need = sequential.samples_for(self.precision)
                raise InputError(
                    f"precision: expected at least ±{finest:.3f}, which is how well {count} images "
                    f"stand for others, got ±{self.precision:g}; that takes {need} images"
                )
        if self.forwards is not None and not self.radial:
            each = min(FEWEST_PER_CELL, count)
            least = count + each * directions
            if self.forwards < least:
                raise InputError(
                    f"forwards: expected at least {least} ({count} clean images and "
                    f"{each} for each of {directions} directions), got "
                    f"{self.forwards}; use fewer samples, a crop or a stride, or radial=True"
                )


def default_norm(height: int, width: int) -> float:
    """The perturbation's L2 norm for images of a size: a power law through the paper's two.

    >>> round(default_norm(32, 32), 2), round(default_norm(224, 224), 2)
    (4.0, 15.7)
    """
    exponent: float = math.log(15.7 / 4.0) / math.log(224 / 32)
    return float(4.0 * (math.sqrt(height * width) / 32) ** exponent)
