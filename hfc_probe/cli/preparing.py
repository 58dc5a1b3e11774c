"""A classifier and its images, as a command line names them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..ground.errors import InputError
from .common import parse_numbers


def prepared(
    spec: str,
    weights: str | None,
    data: str,
    device: Any,
    *,
    classes: int | None = None,
    pixels: Any = None,
    normalize: str | None = None,
    topk: int = 1,
    **options: Any,
) -> tuple[Any, Any, Any]:
    """The model, the images with what is to be said of both, and the normalisation.

    Args:
        pixels, normalize: the normalisation, or its name; None: the published model's.
        options: of :func:`hfc_probe.cli.data.load_samples`.
    """
    from .class_names import own_class_names
    from .data import load_samples
    from .models import load_model, signs_of_no_training
    from .preprocessing import preprocessing

    model = load_model(spec, weights, classes)
    source = "as given on the command line"
    how = preprocessing(spec, model)
    if pixels is None:
        pixels = pixels_of(normalize, None, None)
    if pixels is None:
        pixels = how.pixels
        source = f"as {spec.partition(':')[0]} publishes the model"
    if pixels is None:
        raise InputError(
            "--normalize: expected imagenet, cifar10 or none (or --mean and --std) for a model of "
            "your own, got none of them; a wrong normalisation gives wrong numbers"
        )
    doubts = signs_of_no_training(spec, weights, model)
    samples, logits = load_samples(
        data,
        model.to(device),
        pixels=pixels,
        how=how,
        own_names=lambda logits: own_class_names(spec, model, logits),
        **options,
    )
    if topk >= logits:
        raise InputError(f"--topk: expected fewer than the model's {logits} logits, got {topk}")
    samples = dataclasses.replace(
        samples,
        caveats=(*doubts, *samples.caveats),
        provenance={**samples.provenance, "normalization": source},
    )
    return model, samples, pixels


def pixels_of(normalize: str | None, mean: str | None, std: str | None) -> Any:
    """The normalisation that options name; None if they name none."""
    from ..data.samples import PixelSpace

    if mean is not None or std is not None:
        if normalize is not None or mean is None or std is None:
            raise InputError("--mean: expected together with --std and without --normalize")
        return PixelSpace(parse_numbers("--mean", mean) or (), parse_numbers("--std", std) or ())
    if normalize is None:
        return None
    return {
        "imagenet": PixelSpace.imagenet(),
        "cifar10": PixelSpace.cifar10(),
        "none": PixelSpace(),
    }[normalize]
