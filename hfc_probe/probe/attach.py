"""Attach a probe to a training run, after a look whether it can work."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import nn

from ..core import loggers
from ..core.measurement import check_shape, settings_of
from ..core.provenance import images_hash
from ..data.samples import PixelSpace, Samples, check_pixels
from ..ground import checks
from ..ground.errors import InputError
from ..measurements import FourierHeatmap, FrequencyAccuracy, KernelSpectra, Measurement
from ..measurements.image_score import ImageScore
from ..model.subject import Predict, try_model
from ..model.trial import check_lazy, check_settings
from ..ranks import can_divide, form, is_sharded, rank_and_world
from .journal import Entry, logger
from .probe import Probe
from .schedule import Budget, Every
from .sets import ImageSet, InSet, collect, open_writer
from .steps import not_of

Measurements = Mapping[Measurement, Every] | Iterable[Measurement | tuple[Measurement, Every]]


def attach(
    model: nn.Module,
    data: Any,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    log_dir: str | os.PathLike[str] | None = None,
    writer: Any = None,
    measurements: Measurements | None = None,
    pixels: PixelSpace | None = None,
    limit: int | None = 1000,
    budget: float = 0.05,
    strict: bool = False,
    predict: Predict | None = None,
    final: bool = True,
) -> Probe:
    """Attach a probe to a model in training. The training run stays the same, bit for bit.

    Under ``torch.distributed`` call it, and what you call of the probe, on every rank and with the
    same arguments: each measures a share of the images, all have the results, rank 0 logs them. If
    rank 0 alone calls it, that rank measures alone (a sharded model is refused).

    Args:
        model: any vision classifier, wrapped (DDP, ``torch.compile``) or not.
        data: validation data: an iterable of batches as the model takes them (see
            :meth:`Samples.collect`), read once, now; or :class:`Samples`. None if no
            measurement needs data. Or several of them by name, such as
            ``{"train": …, "val": …}``: each is measured and logged as a run of its own,
            ``log_dir/train``.
        optimizer: if given, steps are counted automatically; otherwise call
            :meth:`Probe.step`, or :meth:`Probe.end_epoch` alone.
        log_dir: TensorBoard directory for a writer of the probe's own.
        writer: your logger, or a list of them, beside ``log_dir`` or without it: a SummaryWriter
            (any object with ``add_scalar``), a Lightning logger, a wandb or MLflow run, the path
            of a ``.csv`` file. TensorBoard's log alone has all that the HFC tab shows.
        measurements: what to measure: measurements, pairs with :class:`Every`, or a mapping to
            it. None: :func:`default_measurements`.
        pixels: how the model wants images normalised, whether the loader or the
            training loop does it; None: as found in the loader's transforms.
        limit: maximum number of samples, a seeded random choice; None for all.
        budget: share of the training's wall time that all measurements together may take
            (:class:`hfc_probe.probe.schedule.Budget`); 1 for no limit.
        strict: raise what a measurement raises, instead of reporting it and training on.
        predict: ``predict(model, images) -> logits`` for models of another form.
        final: whether :meth:`Probe.close` measures the trained model, if that is not done yet.

    Returns:
        The probe; close it after training, or use it as a context manager.

    Raises:
        InputError: anything of this that cannot work, before the training starts.

    >>> layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> samples = Samples(torch.rand(8, 1, 16, 16), torch.arange(8) % 4)
    >>> with attach(layers, samples, measurements=[KernelSpectra()]) as probe:
    ...     list(probe.measure())
    ['kernel_spectra']
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"attach: expected a torch.nn.Module, got {type(model).__name__}")
    leads = not rank_and_world()[0]  # rank 0 logs
    given = loggers.writers(writer) if writer is not None and leads else []
    if predict is not None:
        checks.function("predict", predict, "predict(model, images) -> logits")
    check_pixels(pixels)
    strict = checks.flag("strict", strict)
    share = Budget(budget)
    if log_dir is not None:
        log_dir = checks.path("log_dir", log_dir)
    check_lazy(model)
    stranger = None if optimizer is None else not_of(optimizer, model)
    if stranger is not None:
        logger.warning("hfc_probe: %s", stranger)
    chosen = _scheduled(measurements) if measurements is not None else None
    sets = [ImageSet(pixels=pixels)]
    if chosen is None or any(m.needs_data for m, _ in chosen):
        if data is None:
            raise InputError("attach: expected data (a validation loader or Samples), got none")
        sets = collect(data, pixels=pixels, limit=limit)
    plain = [one.samples if one.samples and one.samples.is_plain else None for one in sets]
    shapes = [None if one is None else one.image_shape for one in plain]
    if chosen is None:
        chosen = list(default_measurements(model, shapes[0]).items())
    several = rank_and_world()[1] > 1
    group = form(_given(chosen, sets), divides=can_divide(model)) if several else None
    if group is None and several and is_sharded(model):
        raise InputError(
            "attach: expected all ranks to attach a probe to a model that is sharded over them, "
            "got fewer; call attach on every rank, not on rank 0 alone"
        )
    for measurement, _ in chosen:
        for one, shape in zip(sets, shapes, strict=True):
            if one.samples is not None and measurement.needs_data:
                check_shape(measurement, one.samples)
            measurement.validate(model, shape)
    for one in sets:
        if one.samples is not None:
            _try_out(model, one.samples, [m for m, _ in chosen], one.pixels, predict)
    named = [one for one in sets if one.name]
    writers, own = _writers(log_dir, given, named) if leads else ({}, [])
    return Probe(
        model=model,
        samples={s.name: s.samples for s in named if s.samples is not None} or sets[0].samples,
        entries=_entries(chosen, sets),
        group=group,
        predict=predict,
        budget=share,
        strict=strict,
        optimizer=optimizer,
        writers=writers,
        own_writers=own,
        final=final,
    )


def _try_out(
    model: nn.Module,
    samples: Samples,
    measurements: list[Measurement],
    pixels: PixelSpace | None,
    predict: Predict | None,
) -> None:
    """One trial pass over a few samples, for what no measurement could work with.

    Raises:
        InputError: a model that does not take the images or does not return logits, labels or
            settings that do not fit it.
    """
    for scored in measurements:
        # Two images show whether there are outputs and targets that a score by name can compare.
        if isinstance(scored, ImageScore) and isinstance(scored.score, str):
            try:
                scored.run(model, samples.subset(2, seed=0), pixels=pixels, predict=predict)
            except Exception as error:
                _refuse(error, samples)
    asking = [m for m in measurements if _asks(m, samples)]
    if not asking:
        return
    found = try_model(model, samples, pixels=pixels, predict=predict, again=True)
    if found.error is not None:
        _refuse(found.error, samples)
    if found.classes is not None:
        largest = int(samples.targets.max())
        if largest >= found.classes:
            raise InputError(
                f"labels: expected class indices from 0 to {found.classes - 1}, the model's "
                f"{found.classes} logits, got {largest}"
            )
        for measurement in asking:
            check_settings(measurement, samples.image_shape, found.classes)


def _refuse(error: Exception, samples: Samples) -> NoReturn:
    """Raise what a model met on some of the samples, in a sentence."""
    if isinstance(error, InputError):
        raise error
    said = " ".join(str(error).split())[:300]
    raise InputError(
        f"model: expected one that takes {tuple(samples.image_shape)} images, as the data has "
        f"them, in evaluation mode, got {type(error).__name__}: {said}; pass the "
        "data that it is trained on, or predict="
    ) from error


def _asks(measurement: Measurement, samples: Samples) -> bool:
    """Whether a measurement asks for logits; one of the user's own may do otherwise."""
    ours = any(
        kind is not Measurement and kind.__module__.startswith("hfc_probe.")
        for kind in type(measurement).__mro__
    )
    if not (ours and measurement.reads_logits):
        return False
    try:
        return measurement.cost(len(samples), samples.image_shape) > 0
    except Exception:  # let it run and report it
        return False


def _given(chosen: list[tuple[Measurement, Every]], sets: list[ImageSet]) -> str:
    """A hash of what has to be the same on all ranks, for their results to fit together."""
    digest = hashlib.sha256()
    values: list[Any] = [value for s in sets for value in (s.name, s.samples, s.pixels)]
    for measurement, every in chosen:
        values += [measurement.name, every, *settings_of(measurement).values()]
    for value in values:
        if isinstance(value, Samples):
            digest.update(images_hash(value).encode())
        elif not callable(value):  # a function has no text that other processes know it by
            digest.update(repr(value).encode())
    return digest.hexdigest()


def default_measurements(
    model: nn.Module, image_shape: tuple[int, int, int] | None
) -> dict[Measurement, Every]:
    """What a probe measures unless told otherwise.

    Accuracy by frequency every epoch; the first layer's kernels every 100 steps and every
    epoch, if the model has such a layer; the Fourier heatmap from at most 16,000 forward
    passes (its centre of 63×63 frequencies for larger images) every epoch, of which later maps need
    a part. The budget may space them out.
    """
    chosen: dict[Measurement, Every] = {FrequencyAccuracy(): Every(epochs=1)}
    spectra = KernelSpectra()
    try:
        spectra.validate(model, image_shape)
        chosen[spectra] = Every(steps=100, epochs=1)
    except InputError as error:
        logger.info("hfc_probe: no kernel spectra for this model; %s", error)
    if image_shape is not None and min(image_shape[1:]) >= 2:
        _, height, width = image_shape
        crop = None if max(height, width) <= 64 else (min(63, height), min(63, width))
        chosen[FourierHeatmap(norm=None, forwards=16_000, crop=crop)] = Every(epochs=1)
    return chosen


def _scheduled(measurements: Measurements) -> list[tuple[Measurement, Every]]:
    """Measurements with their schedules; every epoch if none is given."""
    items = measurements.items() if isinstance(measurements, Mapping) else measurements
    chosen: list[tuple[Measurement, Every]] = []
    for item in checks.listed(items):
        pair = item if isinstance(item, tuple) else (item, Every(epochs=1))
        measurement, every = pair if len(pair) == 2 else (None, None)
        if not isinstance(measurement, Measurement) or not isinstance(every, Every):
            raise InputError(
                "measurements: expected measurements such as FrequencyAccuracy(), each alone or "
                f"with Every(...), got {checks.shown(item)}"
            )
        chosen.append((measurement, every))
    return chosen


def _entries(chosen: list[tuple[Measurement, Every]], sets: list[ImageSet]) -> list[Entry]:
    """Entries under distinct names; the cheap ones (weights only, of no set) come first."""
    weights = [pair for pair in chosen if not pair[0].needs_data]
    images = [pair for pair in chosen if pair[0].needs_data]
    of_weights = [(*pair, replace(sets[0], name="")) for pair in weights]
    entries: dict[str, Entry] = {}
    variants = set()
    for measurement, every, of in [*of_weights, *((*p, s) for s in sets for p in images)]:
        key = of.key(measurement.name)
        variant = (key, measurement.variant)
        if key in entries and measurement.variant:
            key = f"{key}_{measurement.variant}"
        if key in entries or variant in variants:
            raise InputError(
                f"measurements: expected each once, got {measurement.name} twice, which would "
                "write to the same tags; give the second another norm= or label=, if it has one, "
                "or a probe and a log_dir of its own"
            )
        variants.add(variant)
        entries[key] = Entry(key, measurement, every, of)
    return list(entries.values())


def _writers(
    log_dir: str | os.PathLike[str] | None, given: list[Any], named: list[ImageSet]
) -> tuple[dict[str, list[Any]], list[Any]]:
    """Writers by the name of the set, and those of them that are the probe's own.

    A set has a directory in that of the run, so that TensorBoard shows it as a run to compare.
    """
    from torch.utils.tensorboard import SummaryWriter

    own = [] if log_dir is None else [open_writer(log_dir)]
    writers = {"": [*own, *given]}
    for name in (one.name for one in named):
        opened = [] if log_dir is None else [open_writer(log_dir, name)]
        beside = [
            open_writer(one.log_dir, name) if isinstance(one, SummaryWriter) else InSet(one, name)
            for one in given
        ]
        own = [*own, *opened, *(one for one in beside if not isinstance(one, InSet))]
        writers[name] = [*opened, *beside]
    return writers, own
