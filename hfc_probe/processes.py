"""The processes of a job, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and the number of processes; (0, 1) where it is alone."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


@contextmanager
def process_group() -> Iterator[None]:
    """The process group that ``torchrun`` asks for; nothing without it."""
    distributed = torch.distributed
    wanted = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not wanted or not distributed.is_available() or distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def own_device(name: str) -> str:
    """Under ``torchrun``, ``auto`` and ``cuda`` mean this process's own GPU."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or not torch.cuda.is_available() or name not in ("auto", "cuda"):
        return name
    torch.cuda.set_device(int(rank))
    return f"cuda:{rank}"
