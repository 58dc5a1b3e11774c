"""The page that opens first says what each run relies on, and how the runs differ."""

import json
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.core import event_file

from .conftest import tensorboard_server
from .runs import accuracy_result
from .test_browser import download, rows_of
from .test_comparing import accuracies
from .test_one_place import label


def test_each_run_has_its_sentence_and_its_pictures(tab, server):
    tab.open(server)
    headline, rough, smooth = tab.find(".verdict").all_inner_texts()
    # Planted: 60 % against 12.5 % of 400 images at r = 4.
    assert headline == (
        "The largest difference is in HFC(4) (high frequencies, beyond 4 cycles/image): at epoch "
        "12 rough gets 60 % [55, 65] right, smooth 13 % [10, 16], a difference of "
        "+47.5 [+41.4, +53.0] points."
    )
    assert rough.startswith("More from HFC up to r = 4 cycles/image, more from LFC from r = 8 on")
    assert "60 % [55, 65] right from HFC(4) alone, 50 % [45, 55] from LFC(4)" in rough
    assert smooth.startswith("More from the low frequencies: 13 % [10, 16] right from HFC(4)")
    assert smooth.endswith("90 % from the original images.")
    text = tab.text()
    assert (
        "Since step 20 (epoch 1), at the radius that has changed most: HFC(4) 10 % → 60 %" in text
    )
    assert "The probe has taken 1.5 % of the training's wall time." in text
    for plot in ("overview_curve", "overview_heatmap", "overview_kernels"):
        assert tab.plot(plot).count() == 2
    first = tab.plot("overview_curve").first
    with tab.page.expect_download() as waiting:
        first.get_by_role("button", name="CSV").click()
    drawn = rows_of(Path(waiting.value.path()).read_bytes())
    now = {r["radius r (cycles/image)"]: float(r["accuracy"]) for r in drawn if r["line"] == "HFC"}
    assert now == pytest.approx({"4": 0.6, "8": 0.4, "12": 0.2, "16": 0.125})


@pytest.fixture(scope="module")
def audit(environment, tmp_path_factory):
    """One run with one step."""
    place = tmp_path_factory.mktemp("audit")
    result = accuracy_result([0.30, 0.32, 0.34, 0.36], [0.4, 0.38, 0.36, 0.34], original=0.42)
    with SummaryWriter(str(place)) as writer:
        event_file.log(result, writer, 0)
    with tensorboard_server(environment, place) as found:
        yield found


def test_one_step_opens_on_curves_against_radius(tab, audit):
    tab.open(audit, "p.hfc.view=curves")
    assert label(tab, "curves").startswith("Accuracy against radius at step 0")
    low = [r for r in rows_of(download(tab, "curves", "CSV")) if r["line"].startswith("LFC")]
    assert [float(row["accuracy"]) for row in low] == pytest.approx(
        [0.3, 0.325, 0.35, 0.35], abs=0.03
    )
    assert all(float(row["lower"]) < float(row["accuracy"]) < float(row["upper"]) for row in low)
    tab.find('button[data-value="training"]').click()
    tab.ready()
    assert "against radius" not in label(tab, "curves")
    tab.open(audit)
    (sentence,) = [t for t in tab.find(".verdict").all_inner_texts() if t]
    assert sentence.startswith("More from the high frequencies: 40 % [35, 45] right from HFC(4)")
    assert tab.find(".views button").all_inner_texts() == ["Overview", "Curves"]


FITTED = """async (panels) => {
  const { fitted } = await import('./static/charts/axes.js');
  return panels.map((one) => fitted([one]));
}"""


def test_axes_fit_the_data_and_hold_the_line_at_chance(tab, server):
    tab.open(server)
    flat = {"series": [{"y": [0.42, 0.44], "low": [0.41, 0.43], "high": [0.43, 0.46]}]}
    chance = {"lines": [{"y": 0.1}]}
    wide = {"series": [{"y": [0.02, 0.97, None]}]}
    found = tab.run(FITTED, [flat, flat | chance, wide, {"series": []}])
    assert np.array(found) == pytest.approx(np.array([[0.4, 0.5], [0, 0.5], [0, 1], [0, 1]]))


OTHER = {"data": "SVHN", "images": "2222"}


@pytest.fixture(scope="module")
def mixed(environment, tmp_path_factory):
    """Three trainings alike, and what cannot be compared with them; an audit comes first."""
    place = tmp_path_factory.mktemp("mixed")
    accuracies(place / "audit", 500, provenance=OTHER, steps=[0])
    for name, high in (("low", 100), ("middle", 150), ("top", 200)):
        accuracies(place / name, high, steps=[16, 48])
    accuracies(place / "mean", 500, settings={"hfc_background": "mean"}, steps=[16, 48])
    accuracies(place / "untrained", 500, steps=[0])
    with tensorboard_server(environment, place) as found:
        yield found


def test_runs_alike_are_compared_whatever_the_others_are(tab, mixed):
    def headline(*runs, state=""):
        tab.open(mixed, f"p.hfc.runs={json.dumps(runs)}{state}".replace(" ", ""))
        return tab.find(".verdict").first.inner_text()

    said = headline("audit", "low", "middle", "top")
    assert said.startswith(
        "The largest difference between 3 runs is in HFC(4) (high frequencies, beyond 4 "
        "cycles/image): at step 48 top gets 39 % [35, 43] right, low 20 % [16, 23]"
    )
    assert said.endswith("points. Not compared: audit (other data).")
    said = headline("untrained", "low", "top")
    assert "at step 48 top gets 39 %" in said
    assert said.endswith("Not compared: untrained (no place or radius in common).")
    assert headline("low", "mean", "top").endswith(
        "Not compared: HFC of mean (hfc_background mean against zero)."
    )
    chosen = headline("audit", "low", "middle", "top", state="&p.hfc.a=low&p.hfc.b=middle")
    assert "middle gets 29 % [26, 33] right, low 20 % [16, 23]" in chosen
    assert headline("audit", "low", "top", state="&p.hfc.a=audit&p.hfc.b=low").endswith(
        "Not compared: audit (other data)."
    )
    assert headline("audit", "top").startswith("No two of the chosen runs have measured the same")
