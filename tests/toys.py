"""Small models and what several tests need of them."""

from __future__ import annotations


class Tally(dict):
    """Counts that a measurement does not put back, as it does with plain attributes.

    Of a class of its own, it is an object to the isolation, and what happens inside it stays.
    """


class Log(list):
    """A list that a measurement does not put back, for the same reason."""
