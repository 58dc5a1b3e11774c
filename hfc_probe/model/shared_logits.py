"""Logits that measurements of one model share, if they show it the same images."""

from __future__ import annotations

import weakref
from collections.abc import Hashable

from torch import Tensor, nn

from ..data.samples import Samples
from .isolation import unwrap

# A little more than 1,000 images of 16 views take with 1,000 classes.
_HELD_BYTES = 64 << 20


class SharedLogits:
    """Logits by view and batch, for measurements that follow one another on unchanged weights.

    A view is kept as a whole or not at all, by sizes that all ranks know alike: ranks that share
    the batches of a sharded model then leave out the same passes.

    Args:
        model: the one measured, wrapped or not; a stand-in for it shares nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrap(model)
        self._free = _HELD_BYTES
        self._views: weakref.WeakKeyDictionary[Samples, dict[Hashable, dict[int, Tensor] | None]]
        self._views = weakref.WeakKeyDictionary()

    def get(self, samples: Samples, view: Hashable, start: int) -> Tensor | None:
        """The logits of the batch that starts at a sample, if they are kept."""
        return (self._views.get(samples, {}).get(view) or {}).get(start)

    def keep(self, samples: Samples, view: Hashable, start: int, logits: Tensor) -> None:
        """Keep the logits of a batch, if there is room for those of all samples."""
        views = self._views.setdefault(samples, {})
        if view not in views:
            size = len(samples) * logits.shape[1] * logits.element_size()
            fits = size <= self._free
            self._free -= size if fits else 0
            views[view] = {} if fits else None
        batches = views[view]
        if batches is not None:
            batches[start] = logits

    def clear(self) -> None:
        """Forget all of them: after a failure, ranks may not have kept the same ones."""
        self._views.clear()
        self._free = _HELD_BYTES
