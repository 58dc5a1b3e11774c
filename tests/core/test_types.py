"""What a type checker knows in a user's file: each measurement's own result."""

from __future__ import annotations

import pytest

from ..conftest import ROOT

mypy = pytest.importorskip(
    "mypy.api", reason="mypy is not installed: pip install 'hfc_probe[test]'"
)

USER = """
from hfc_probe import FrequencyAccuracy, Measurement, Result
from hfc_probe.model.subject import Subject
from torch import nn

class Share(Result):
    share = 0.5

    def scalars(self) -> dict[str, float]:
        return {"share": self.share}

class Own(Measurement):
    def compute(self, subject: Subject) -> Share:
        return Share(settings={}, samples=subject.tally.passes)

def measure(model: nn.Module, other: Measurement) -> None:
    area: float = FrequencyAccuracy().measure(model).area()
    share: float = Own().measure(model).share
    result: Result = other.measure(model)
    FrequencyAccuracy().measure(model).share
    Own().measure(model).area()
"""


def test_measure_returns_the_result_of_its_measurement(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "user.py"
    path.write_text(USER)
    said, errors, _ = mypy.run(["--strict", "--no-error-summary", str(path)])
    assert errors == ""
    assert [line.partition("error: ")[2] for line in said.splitlines()] == [
        '"FrequencyAccuracyResult" has no attribute "share"  [attr-defined]',
        '"Share" has no attribute "area"  [attr-defined]',
    ]
