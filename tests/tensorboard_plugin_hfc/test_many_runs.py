"""Many runs: names, search, seeds as one curve, and the way back from a zoom."""

import shutil

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.core import event_file

from .conftest import tensorboard_server
from .runs import accuracy_result
from .test_browser import CURVES, download, hover, rows_of

LONG = "resnet18_with_a_very_long_description_of_its_augmentation_seed"


@pytest.fixture(scope="module")
def address(environment, tmp_path_factory):
    """Ten audits: three seeds of a long name, and seven others."""
    place = tmp_path_factory.mktemp("many")
    for seed, high in enumerate((0.2, 0.3, 0.4)):
        with SummaryWriter(str(place / f"sweep/{LONG}{seed}")) as writer:
            event_file.log(accuracy_result([0.5] * 4, [high] * 4), writer, 0)
    (whole,) = (place / f"sweep/{LONG}0").iterdir()
    for letter in "abcdefg":
        (place / "sweep" / letter).mkdir()
        shutil.copy(whole, place / "sweep" / letter)
    with tensorboard_server(environment, place) as found:
        yield found


def test_names_are_short_and_found_by_a_regular_expression(tab, address):
    tab.open(address, CURVES)
    assert "All begin with sweep/" in tab.text()
    shown = [text.split("\n")[0] for text in tab.find("aside li").all_inner_texts()]
    assert shown[:2] == ["a", "b"]
    end = tab.find("aside li .name span").last  # where seeds differ: never cut off
    assert end.inner_text() == "tion_seed2"
    assert end.evaluate("end => end.getBoundingClientRect().right") < tab.find(
        "aside li .letter"
    ).nth(-2).evaluate("letter => letter.getBoundingClientRect().left")
    search = tab.find('input[type="search"]')
    for text, count in (("/[ab]$", 2), ("seed[12]", 2), ("SEED", 3), ("seed(", 0)):
        search.fill(text)
        assert tab.find("aside li").count() == count


def test_seeds_become_their_mean_and_spread(tab, address):
    runs = "[" + ",".join(f"%22sweep/{LONG}{seed}%22" for seed in range(3)) + ",%22sweep/a%22]"
    tab.open(address, f"{CURVES}&p.hfc.runs={runs}")
    tab.find(".toggle", has_text="Seeds as mean").locator("input").check()
    tab.ready()
    rows = rows_of(download(tab, "curves", "CSV"))
    assert {row["line"] for row in rows if "HFC" in row["line"]} == {
        f"HFC sweep/{LONG.removesuffix('_seed')}",
        "HFC sweep/a",
    }
    (row,) = (r for r in rows if "augm" in r["line"] and r["line"][0] == "H" and "4" in r.values())
    values = [accuracy_result([0.5] * 4, [v] * 4).arrays()["hfc"][0] for v in (0.2, 0.3, 0.4)]
    mean, spread = np.mean(values), np.std(values, ddof=1)
    found = [float(row[name]) for name in ("accuracy", "lower", "upper")]
    assert found == pytest.approx([mean, mean - spread, mean + spread], abs=1e-6)


SEEDS = """async (names) => {
  const { seeds } = await import('./static/names.js');
  return seeds(names);
}"""


def test_only_a_seed_makes_runs_one_group(tab, address):
    tab.open(address)
    names = ["resnet18", "resnet50", "vit/seed=1", "vit/seed=2", "a_s0", "a_s1", "classes10"]
    assert tab.run(SEEDS, names) == [
        ["resnet18", ["resnet18"]],
        ["resnet50", ["resnet50"]],
        ["vit", ["vit/seed=1", "vit/seed=2"]],
        ["a", ["a_s0", "a_s1"]],
        ["classes10", ["classes10"]],
    ]


def test_a_zoom_is_left_by_a_button(tab, address):
    tab.open(address, CURVES)
    reset = tab.plot("curves").get_by_role("button", name="Reset zoom")
    canvas = tab.plot("curves").locator("canvas")
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    assert reset.is_hidden()
    box = canvas.bounding_box()
    y = box["y"] + box["height"] - 200
    tab.page.mouse.move(box["x"] + 200, y)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + 500, y)
    tab.page.mouse.up()
    assert canvas.evaluate("canvas => canvas.toDataURL()") != before
    reset.click()
    assert canvas.evaluate("canvas => canvas.toDataURL()") == before
    assert reset.is_hidden()


def test_plots_name_runs_as_the_list_does_and_files_in_full(tab, address):
    tab.open(address, f"{CURVES}&p.hfc.mode=radius")
    tip = hover(tab, "curves", 0.5, 200)
    assert "LFC a" in tip
    assert "sweep" not in tip
    lines = {row["line"] for row in rows_of(download(tab, "curves", "CSV"))}
    assert "LFC sweep/a" in lines
