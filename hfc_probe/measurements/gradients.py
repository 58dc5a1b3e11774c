"""Models that cut the gradient between logits and image, named in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..ground.errors import InputError


@contextmanager
def reached(measurement: str, instead: str) -> Iterator[None]:
    """Autograd's errors about an image without gradient, as an :class:`InputError`.

    Args:
        measurement: who needs the gradient.
        instead: what to do.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "does not require grad" in text or "have been used in the graph" in text:
            raise InputError(
                f"{measurement}: expected a model through which gradients reach the image, got "
                f"one that cuts them (torch.no_grad, detach or NumPy inside); {instead}"
            ) from error
        raise
