"""FGSM and PGD in pixel space, for adversarial training and for attacks on a trained model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .ground import checks

__all__ = ["fgsm_direction", "pgd"]


def fgsm_direction(
    model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Sign of the gradient of the cross-entropy at the images, and the logits there.

    One backward pass serves every ε, since FGSM's step is ε times this. Gradients of parameters
    are neither computed nor changed.

    Args:
        model: pixel space to logits, a module or a function.
        images: ``(N, C, H, W)`` in [0, 1].
        targets: ``(N,)`` class indices.

    Source: Goodfellow et al., ICLR 2015.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        logits = model(images)
        loss = F.cross_entropy(logits, targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient.sign(), logits.detach()


def pgd(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    steps: int = 10,
    step_size: float | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Adversarial images by PGD, L∞, in pixel space and within [0, 1].

    Adversarial training (Madry et al., ICLR 2018) trains on them in place of the images. The
    model is called in the mode that it is in: in training mode BatchNorm's running statistics
    take part in every step of the attack, so call ``model.eval()`` before and ``model.train()``
    after.

    Args:
        model, images, targets: as :func:`fgsm_direction`. For a model that takes normalised
            images: ``lambda images: model(pixels.normalize(images))``.
        epsilon: radius in pixel space, above 0 and at most 1.
        steps: gradient steps.
        step_size: in pixel space; None: 2.5 ε / steps.
        start: offset from the images where it starts, such as
            ``torch.empty_like(images).uniform_(-epsilon, epsilon)``; None: at the images.

    Raises:
        InputError: an epsilon, steps or step size outside those bounds.

    >>> linear = lambda images: torch.stack([images.flatten(1).sum(1), images.new_zeros(1)], 1)
    >>> pgd(linear, torch.tensor([[[[0.5, 0.05]]]]), torch.tensor([0]), epsilon=0.1).tolist()
    [[[[0.4000000059604645, 0.0]]]]
    """
    epsilon = checks.number("epsilon", epsilon, 0, 1, open_low=True)
    steps = checks.whole("steps", steps)
    step_size = 2.5 * epsilon / steps if step_size is None else step_size
    adversarial = images if start is None else (images + start).clamp(0, 1)
    for _ in range(steps):
        direction, _ = fgsm_direction(model, adversarial, targets)
        change = adversarial + step_size * direction - images
        adversarial = (images + change.clamp(-epsilon, epsilon)).clamp(0, 1)
    return adversarial.detach()
