"""What each scalar of a result is, in words and as plain values: nobody has to read its tag."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Label:
    """What one scalar is.

    Attributes:
        text: in words, as they stand within a sentence: ``accuracy on HFC(4)``.
        quantity: what kind of number: ``accuracy``, ``AP50``, ``error rate`` …
        part: what the model was shown: ``original``, ``lfc`` or ``hfc``; empty for anything else.
        radius: the cut-off of that part, in the settings' units.
        settings: those settings that change this number; None: any may.
    """

    text: str
    quantity: str = ""
    part: str = ""
    radius: float | None = None
    settings: tuple[str, ...] | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON; what is not known is left out.

        >>> Label("accuracy on HFC(4)", "accuracy", "hfc", 4.0).plain()
        {'text': 'accuracy on HFC(4)', 'quantity': 'accuracy', 'part': 'hfc', 'radius': 4.0}
        """
        known = {key: value for key, value in asdict(self).items() if value not in ("", None)}
        if self.radius is not None and self.radius == float("inf"):
            known["radius"] = "inf"  # JSON has no infinity
        return known

    @classmethod
    def read(cls, plain: Any) -> Label:
        """The label that :meth:`plain` wrote.

        Raises:
            ValueError: something else.
        """
        if not isinstance(plain, dict) or not isinstance(plain.get("text"), str):
            raise ValueError("a label has a text")
        quantity, part = (str(plain.get(key, "")) for key in ("quantity", "part"))
        radius, settings = plain.get("radius"), plain.get("settings")
        if settings is not None and not isinstance(settings, list):
            raise ValueError("a label's settings are a list")
        return cls(
            plain["text"],
            quantity,
            part,
            None if radius is None else float(radius),
            None if settings is None else tuple(map(str, settings)),
        )


def accuracy_label(
    part: str, radius: float | None = None, *, quantity: str = "accuracy", **more: Any
) -> Label:
    """Of a number on the original images, on LFC(r) or on HFC(r).

    >>> accuracy_label("lfc", 8.0).text, accuracy_label("original").text
    ('accuracy on LFC(8)', 'accuracy on the original images')
    """
    shown = "the original images" if radius is None else f"{part.upper()}({radius:g})"
    return Label(f"{quantity} on {shown}", quantity, part, radius, **more)
