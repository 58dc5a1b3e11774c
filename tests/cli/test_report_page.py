"""What the page of two runs begins with, and its pictures."""

import json

import pytest
from click.testing import CliRunner

from hfc_probe import load
from hfc_probe.cli.comparison import compare
from hfc_probe.cli.main import main
from hfc_probe.cli.page import page
from hfc_probe.cli.pairs import share

from .test_report import OTHER, audit, frequencies, here

__all__ = ["here"]  # a fixture


def test_the_page_begins_with_what_changed_most():
    few = {"hfc_accuracy/original": 480, "hfc_lfc/r04": 300, "hfc_hfc/r04": 300}
    a = frequencies("A", {"hfc_accuracy/original": 400, "hfc_lfc/r04": 300, "hfc_hfc/r04": 100})
    b = frequencies("B", few, provenance=OTHER)
    for run, value in ((a, 0.5), (b, 0.9)):
        own = {"settings": {}, "samples": 9, "summary": "", "provenance": {"model": "Net"}}
        numbers = {"scalars": {"x": value}, "intervals": {"x": [value - 0.01, value + 0.01]}}
        run.results["frequency_accuracy"]["summary"] = ""
        run.results["another"] = {**own, **numbers}
    found = compare(a, b)
    # From 100 to 300 of 512 is more than half of what B gets; 400 to 480 a tenth of it.
    assert [change.tag for change in found.clear] == ["hfc_hfc/r04", "x", "hfc_accuracy/original"]
    text = page(found)
    assert text.index("<h2>Frequency accuracy") < text.index("<h2>Another")
    assert "<th>model</th><td>Net</td><td>Net</td>" in text


@pytest.mark.slow
def test_pictures_of_both_runs_share_their_scales_and_maps_their_difference(here):
    for name in ("net", "other"):
        done = audit(name, name, "--measure", "fourier_heatmap:samples=24,norm=9")
        assert done.exit_code == 0, done.output
    one, two = (load(here / name / "fourier_heatmap.json").figure() for name in ("net", "other"))
    one.axes[0].images[0].set_clim(0.0, 0.2)
    two.axes[0].images[0].set_clim(0.1, 0.7)
    one.axes[1].set_xlim(0, 5)
    share(one, two)
    for figure in (one, two):
        assert figure.axes[0].images[0].get_clim() == (0.0, 0.7)
        assert figure.axes[1].get_xlim() == two.axes[1].get_xlim()
        assert figure.axes[1].get_xlim()[1] > 5
    assert CliRunner().invoke(main, ["report", "net", "other"]).exit_code == 0
    text = (here / "other" / "report.html").read_text()
    assert text.count('alt="fourier_heatmap: B − A"') == 1
    assert text.count("<input type=checkbox aria-label=") == 7  # three measurements, one difference
    (here / "other" / "fourier_heatmap.json").write_text(
        json.dumps({"measurement": "fourier_heatmap", "scalars": {}, "samples": 3})
    )
    assert CliRunner().invoke(main, ["report", "net", "other"]).exit_code == 0  # as it was drawn
    assert "fourier_heatmap: B − A" not in (here / "other" / "report.html").read_text()
