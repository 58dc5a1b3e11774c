"""The one exception that means "the input was wrong, not the code"."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input, told in one sentence: what was expected, what came, what to do.

    The command line prints the sentence and exits with status 2; everything else that is
    raised is a defect and keeps its traceback.
    """


def named(items: Sequence[object], most: int = 5) -> str:
    """Names that a file gave, for a sentence: in one line, short, printable.

    >>> named(["a  b", 2, 3, 4, 5, 6, 7])
    'a b, 2, 3, 4, 5 and 2 more'
    """
    lines = (str(item).encode(errors="replace").decode().split() for item in items[:most])
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(" ".join(line)[:200] for line in lines) + rest
