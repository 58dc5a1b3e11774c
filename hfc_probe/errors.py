"""The one exception that means "the input was wrong, not the code"."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one sentence: what was expected, what came, what to do.

    The command line prints the sentence and exits with status 2; everything else that is
    raised is a defect and keeps its traceback.
    """
