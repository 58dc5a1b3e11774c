"""Work shared among the processes of ``torch.distributed``, where there are several."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch

from ..processes import rank_and_world

# Ranks that are done wait for the slowest; whoever dies is noticed by torchrun, not here.
_PATIENCE = timedelta(days=1)


class Together:
    """Exchange of Python objects over gloo, whatever backend the training uses.

    Every process must make one and call its methods in the same order.
    """

    def __init__(self) -> None:
        self.rank, self.world = rank_and_world()
        self._group: Any = None
        if self.world > 1:
            self._group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def gather(self, item: Any) -> list[Any]:
        """Every process's item, by rank, on every process."""
        if self.world == 1:
            return [item]
        items: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(items, item, group=self._group)
        return items

    def gather_to_leader(self, item: Any) -> list[Any]:
        """Every process's item, by rank, on rank 0; nothing elsewhere."""
        if self.world == 1:
            return [item]
        items: list[Any] | None = [None] * self.world if self.leads else None
        torch.distributed.gather_object(item, items, dst=0, group=self._group)
        return items or []

    def broadcast(self, item: Any) -> Any:
        """Rank 0's item on every process."""
        if self.world == 1:
            return item
        items = [item]
        torch.distributed.broadcast_object_list(items, src=0, group=self._group)
        return items[0]

    def close(self) -> None:
        if self._group is not None:
            torch.distributed.destroy_process_group(self._group)
            self._group = None
