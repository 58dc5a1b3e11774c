"""Who measures: all ranks that attached, in lock-step, or rank 0 alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from ..ranks import RankGroup, is_sharded, rank_and_world

T = TypeVar("T")


class Meeting:
    """The ranks of a training, when they measure.

    Args:
        group: those that attached; None if this process measures alone.
        model: what is measured.
        warn_once: says, under a key, what is not as it should be.

    Attributes:
        leads: whether this process logs, and measures if one alone does: the only one, or rank
            0. Once attached it stays what it was, also after the process group's end.
        ranks: those that measure together now.
    """

    def __init__(
        self, group: RankGroup | None, model: nn.Module, warn_once: Callable[[str, str], None]
    ) -> None:
        self.leads = rank_and_world()[0] == 0
        self.ranks: RankGroup | None = None
        self._group = group
        self._model = model
        self._warn_once = warn_once

    @property
    def together(self) -> RankGroup | None:
        """The ranks that measure together, as long as they keep coming."""
        return None if self._group is None or self._group.is_dissolved else self._group

    def gathers(self, position: tuple[int, ...]) -> bool:
        """Whether this rank measures now: with the others, or alone if they stay away.

        Args:
            position: the call in the training that is made, the same on all ranks.
        """
        self.ranks = None
        group = self.together
        if group is None:
            return self.leads and (self._group is None or not is_sharded(self._model))
        if not group.meet(position):
            sharded = is_sharded(self._model)
            self._warn_once(
                "missed",
                "not all ranks came to measure together, so "
                + (
                    "nothing of this sharded model is measured"
                    if sharded
                    else "rank 0 measures alone"
                )
                + "; make the same calls of the probe on every rank",
            )
            return self.leads and not sharded
        if group.same(self._model):
            self.ranks = group
            return True
        if self.leads:
            self._warn_once(
                "weights",
                "the ranks hold different weights, so rank 0 measures its own alone; is the model "
                "trained without DistributedDataParallel?",
            )
        return self.leads

    def agree(self, value: T) -> T:
        """Rank 0's value, if ranks measure together."""
        return value if self.ranks is None else self.ranks.broadcast(value)

    def close(self) -> None:
        if self._group is not None:
            self._group.close()
