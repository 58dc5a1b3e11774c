"""Scores by task: of single images, and metrics over a set of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..ground import checks
from ..ground.errors import InputError
from ..model.outputs import look_like_probabilities, tensor_among
from .score_targets import alike, check_rows, classes_of, images_of, is_clean, labels_of, targets_of

if TYPE_CHECKING:
    from ..data.samples import Samples
    from ..model.subject import Subject

__all__ = ["SCORES", "SetScore", "nearest_neighbours"]

Score = Callable[[Any, Any], Tensor]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class SetScore:
    """A metric over a set of images that is no mean over them, such as mAP or mIoU.

    Args:
        metric: ``metric(outputs, targets) -> float`` on the outputs of all images. It is called
            for every resample, so choose ``ImageScore(bootstrap=)`` by what it costs.
        rows: in place of it, ``rows(outputs, targets) -> (N, S)``: the numbers of each image that
            the metric is made of, such as intersections and unions by class.
        value: ``value(rows, weights) -> (B, P)`` of rows ``(N, S)`` and sets ``(B, N)``, each a
            weight for every image that sum to 1. The first column is the metric, further ones are
            the same by class or label; NaN for a class that is in no image.

    >>> rms = SetScore(
    ...     rows=lambda outputs, targets: (outputs - targets).square(),
    ...     value=lambda rows, weights: (weights @ rows) ** 0.5,
    ... )
    >>> rms.value(np.array([[9.0], [16.0]]), np.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [[3.5355339059327378], [3.0]]
    """

    metric: Callable[[Tensor, Tensor], Any] | None = None
    rows: Callable[[Any, Any], Tensor] = None  # type: ignore[assignment]  # made of the metric
    value: Callable[[Array, Array], Array] = None  # type: ignore[assignment]
    __name__: str = "metric"

    def __post_init__(self) -> None:
        given = [part is not None for part in (self.metric, self.rows, self.value)]
        if given not in ([True, False, False], [False, True, True]):
            got = [
                n
                for n, is_there in zip(("metric", "rows", "value"), given, strict=True)
                if is_there
            ]
            raise InputError(
                "SetScore: expected metric(outputs, targets), or rows= and value=, got "
                f"{' and '.join(got) or 'neither'}; pass one of the two"
            )
        if self.metric is not None:
            checks.function("metric", self.metric, "metric(outputs, targets) -> float")
            object.__setattr__(self, "rows", _packed)
            object.__setattr__(self, "value", self._called)
            object.__setattr__(self, "__name__", getattr(self.metric, "__name__", "metric"))

    def _called(self, rows: Array, weights: Array) -> Array:
        assert self.metric is not None
        outputs, targets = _unpacked(rows)
        counts = np.rint(weights * len(rows)).astype(int)
        drawn = [torch.from_numpy(np.repeat(np.arange(len(rows)), one)) for one in counts]
        return np.array([[float(self.metric(outputs[one], targets[one]))] for one in drawn])


def _packed(outputs: Tensor, targets: Tensor) -> Tensor:
    """Both in one row for each image, with their shapes in front."""
    parts = []
    for one in (outputs, targets):
        if not isinstance(one, Tensor):
            raise InputError(
                f"SetScore: expected tensors of outputs and targets, got {type(one).__name__}; "
                "pass predict= that returns one, or rows= and value="
            )
        head = [float(not one.is_floating_point()), one.dim() - 1, *one.shape[1:]]
        parts.append(torch.tensor(head).double().expand(len(one), -1))
        parts.append(one.reshape(len(one), -1).double().cpu())
    return torch.cat(parts, 1)


def _unpacked(rows: Array) -> tuple[Tensor, Tensor]:
    out, at = [], 0
    for _ in range(2):
        whole, dims = rows[0, at : at + 2].astype(int)
        shape = rows[0, at + 2 : at + 2 + dims].astype(int)
        at += 2 + dims
        size = int(np.prod(shape))
        part = torch.from_numpy(rows[:, at : at + size]).reshape(len(rows), *shape)
        out.append(part.long() if whole else part.float())
        at += size
    return out[0], out[1]


def _correct(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.argmax(1) == classes_of(outputs, targets)


def _label_correct(outputs: Tensor, targets: Tensor) -> Tensor:
    truth = labels_of(outputs, targets)
    if look_like_probabilities(outputs):
        raise InputError(
            "outputs: expected logits, above 0 if the label is there, got values from "
            f"{outputs.min():.2g} to {outputs.max():.2g}, as probabilities are; give logits by "
            "predict="
        )
    return (outputs > 0) == truth


def _exact_match(outputs: Tensor, targets: Tensor) -> Tensor:
    return _label_correct(outputs, targets).all(1)


def _overlaps(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels in the intersection and in the union, ``(N, K)``."""
    classes, targets = outputs.shape[1], classes_of(outputs, targets)
    valid = (targets >= 0) & (targets < classes)
    said = torch.where(valid, outputs.argmax(1), classes)
    true = torch.where(valid, targets, classes)

    def masks(of: Tensor) -> Tensor:
        return torch.stack([(of == k).flatten(1) for k in range(classes)], 1)

    return (masks(said) & masks(true)).sum(2), (masks(said) | masks(true)).sum(2)


def _mean_iou(outputs: Tensor, targets: Tensor) -> Tensor:
    both, either = _overlaps(outputs, targets)
    present = either > 0
    return (both / either.clamp_min(1)).sum(1) / present.sum(1).clamp_min(1)


def _with_mean(parts: Array) -> Array:
    """The mean of the known parts, in front of them."""
    known = np.isfinite(parts)
    mean = np.where(known, parts, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.column_stack([np.where(known.any(1), mean, np.nan), parts])


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _set_iou(rows: Array, weights: Array) -> Array:
    both, either = np.split(weights @ rows, 2, axis=1)
    return _with_mean(_ratio(both, either))


def _average_precisions(rows: Array, weights: Array) -> Array:
    """AP of each label, the area under its step function; tied scores are one threshold."""
    parts = []
    for scores, truth in zip(*(half.T for half in np.split(rows, 2, axis=1)), strict=True):
        order = np.argsort(-scores, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
        of_set = weights[:, order]
        found = np.cumsum(of_set, 1)[:, ends]
        right = np.cumsum(of_set * truth[order], 1)[:, ends]
        gained = np.diff(right, axis=1, prepend=0)
        precision = np.nan_to_num(_ratio(right, found))
        parts.append(_ratio((gained * precision).sum(1), right[:, -1]))
    return _with_mean(np.stack(parts, 1))


def _per_image(values: Tensor) -> Tensor:
    """Means of ``(N, …)`` over all but the images; also of one value an image, ``(N,)``."""
    return values.reshape(len(values), -1).mean(1)


def _absolute_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return _per_image((outputs - alike(outputs, targets)).abs())


def _error_sums(
    of: Callable[[Tensor, Tensor], Tensor], known: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Sum of an error over the known values of each image, and their number."""

    def sums(outputs: Tensor, targets: Tensor) -> Tensor:
        targets = alike(outputs, targets).reshape(len(targets), -1)
        outputs = outputs.reshape(targets.shape)
        mask = known(targets) & targets.isfinite()
        errors = of(outputs, torch.where(mask, targets, 1)).where(mask, 0)
        return torch.stack([errors.double().sum(1), mask.double().sum(1)], 1)

    return sums


def _pooled(rows: Array, weights: Array) -> Array:
    sums = weights @ rows
    return _ratio(sums[:, :1], sums[:, 1:])


def _psnr(outputs: Tensor, targets: Tensor) -> Tensor:
    error = _per_image((outputs - images_of(outputs, targets)).square())
    return -10 * error.clamp_min(1e-10).log10()  # of images in [0, 1]; at most 100 dB


def _ssim(outputs: Tensor, targets: Tensor) -> Tensor:
    """Wang et al., IEEE TIP 2004: a Gaussian window of 11 pixels, σ = 1.5, images in [0, 1]."""
    if outputs.dim() != 4 or min(outputs.shape[2:]) < 11:
        raise InputError(
            "ssim: expected images (N, C, H, W) of at least 11 pixels a side from the model, got "
            f"{tuple(outputs.shape)}"
        )
    at = torch.arange(11, device=outputs.device, dtype=outputs.dtype) - 5
    bell = torch.exp(-(at**2) / (2 * 1.5**2))
    bell = bell / bell.sum()

    def blurred(images: Tensor) -> Tensor:
        flat = images.flatten(0, 1)[:, None]
        flat = F.conv2d(F.conv2d(flat, bell[None, None, :, None]), bell[None, None, None])
        return flat.reshape(len(images), -1)

    x, y = outputs, images_of(outputs, targets).to(outputs.dtype)
    mx, my = blurred(x), blurred(y)
    vx, vy = blurred(x * x) - mx**2, blurred(y * y) - my**2
    both = blurred(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * both + c2) / (vx + vy + c2)
    return ((2 * mx * my + c1) / (mx**2 + my**2 + c1) * structure).mean(1)


def _cosine(outputs: Tensor, targets: Tensor) -> Tensor:
    flat = (len(outputs), -1)
    return F.cosine_similarity(outputs.reshape(flat), alike(outputs, targets).reshape(flat))


def nearest_neighbours(embeddings: Tensor, labels: Tensor, k: int = 20) -> Score:
    """A score of embeddings: whether most of the k nearest in a gallery have the image's label.

    Args:
        embeddings: of the gallery's images, ``(M, D)``, by the model that is measured.
        labels: of the gallery, ``(M,)``.
        k: neighbours by cosine similarity; of a tie the nearer label wins.

    Raises:
        InputError: fewer than k images in the gallery, or not a label for each.
    """
    k = checks.whole("k", k, 1, len(embeddings))
    if len(labels) != len(embeddings):
        raise InputError(
            f"labels: expected one for each of {len(embeddings)} embeddings, got {len(labels)}"
        )
    gallery = F.normalize(embeddings.detach().float(), dim=1)

    def knn_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
        there = gallery.to(outputs.device)
        near = (F.normalize(outputs.float(), dim=1) @ there.T).topk(k, 1).indices
        found = labels.to(outputs.device)[near]
        votes = (found[:, :, None] == found[:, None]).sum(2)
        votes = votes * k + torch.arange(k, 0, -1, device=votes.device)  # nearer first
        return found.gather(1, votes.argmax(1, keepdim=True))[:, 0] == targets

    return knn_accuracy


SCORES: Mapping[str, Score | SetScore] = {
    "accuracy": _correct,
    "exact_match": _exact_match,
    "label_accuracy": SetScore(
        rows=_label_correct,
        value=lambda rows, weights: _with_mean(weights @ rows),
    ),
    "mean_average_precision": SetScore(
        rows=lambda outputs, targets: torch.cat(
            [outputs, labels_of(outputs, targets).to(outputs)], 1
        ),
        value=_average_precisions,
    ),
    "mean_iou": _mean_iou,
    "set_iou": SetScore(
        rows=lambda outputs, targets: torch.cat(_overlaps(outputs, targets), 1), value=_set_iou
    ),
    "absolute_error": _absolute_error,
    "rmse": SetScore(
        rows=_error_sums(lambda x, y: (x - y).square(), lambda y: ~y.isnan()),
        value=lambda rows, weights: np.sqrt(_pooled(rows, weights)),
    ),
    "abs_rel": SetScore(
        rows=_error_sums(lambda x, y: (x - y).abs() / y, lambda y: y > 0), value=_pooled
    ),
    "psnr": _psnr,
    "ssim": _ssim,
    "cosine": _cosine,
}


IMAGE_SCORES = tuple(name for name, score in SCORES.items() if not isinstance(score, SetScore))


def score_named(score: Any) -> Score | SetScore:
    """The score itself, given it or its name.

    Raises:
        InputError: neither a function, a :class:`SetScore` nor one of :data:`SCORES`.
    """
    if callable(score) or isinstance(score, SetScore):
        own: Score | SetScore = score
        return own
    return SCORES[checks.choice("score", score, tuple(SCORES))]


def takes_model(score: Any) -> bool:
    """Whether a score is called as ``score(model, inputs, targets)`` and not with outputs.

    That is by the arguments that it needs; those with a default are its own.
    """
    if isinstance(score, str):
        return False
    called = score.forward if isinstance(score, nn.Module) else score
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # of a function without a signature
        return True
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in plain and p.default is p.empty for p in parameters) != 2


def adapted(
    score: Any, targets: Any, subject: Subject, samples: Samples
) -> tuple[Callable[[nn.Module, Tensor, Tensor], Tensor], Samples]:
    """``score(model, inputs, targets)`` of a score of outputs, and the samples it is called on."""
    found, predict, clean = score_named(score), subject.predict, is_clean(targets)
    tensors = clean or isinstance(score, str)
    check_rows(targets, samples.targets)
    if clean:
        seen = replace(subject, samples=samples)
        targets = torch.cat(
            list(seen.map(lambda start, images, _: seen.answer(images, tensor=True).cpu()))
        )
        samples = replace(samples, targets=torch.arange(len(samples)))

    def scored(model: nn.Module, inputs: Tensor, rows: Tensor) -> Tensor:
        outputs = model(inputs) if predict is None else predict(model, inputs)
        outputs = tensor_among(outputs, len(inputs)) if tensors else outputs
        return torch.as_tensor(found(outputs, targets_of(targets, rows)))  # type: ignore[operator]

    own = getattr(score, "__qualname__", type(score).__qualname__)
    scored.__qualname__ = score if isinstance(score, str) else own
    return scored, samples
