"""The tab by keyboard and by ear: focus, names, numbers behind the pictures, axe-core's rules."""

from importlib.resources import files

import pytest

from .runs import RunWriter
from .test_browser import CURVES, download, rows_of, served

LATER_ROWS = "tbody tr:nth-child(n+9)"  # like those before them
VIEWS = ("overview", "curves", "heatmap", "kernels", "cost", "detections")
FOCUS = "() => document.activeElement.ariaLabel || document.activeElement.textContent"


def test_the_focus_stays_where_it_was(tab, environment, tmp_path):
    run = RunWriter(tmp_path / "run", uses_hfc=True)
    run.step(1, 10)
    with served(tab, environment, tmp_path) as address:
        tab.open(address, CURVES)
        for name in ("Against radius", "HFC", "A: compare run as run A"):
            tab.find("body").get_by_role("button", name=name, exact=True).focus()
            tab.page.keyboard.press("Enter")
            tab.ready()
            tab.page.wait_for_timeout(100)
            assert tab.run(FOCUS) == name
        run.step(2, 10)
        tab.find("body").get_by_role("button", name="LFC and HFC").focus()
        for _ in range(50):  # live: new data, the same focus
            tab.run(
                "() => [...document.querySelectorAll('button')]"
                ".find((one) => one.textContent === 'Refresh').click()"
            )
            tab.page.wait_for_timeout(200)
            if "epoch 2" in tab.find(".stepper output").inner_text():
                break
        assert "epoch 2" in tab.find(".stepper output").inner_text()
        assert tab.run(FOCUS) == "LFC and HFC"
    run.close()


def test_every_picture_can_be_read_as_a_table(tab, server):
    for view, plot in (("curves", "curves"), ("heatmap", "heatmap"), ("kernels", "kernels")):
        tab.open(server, f"p.hfc.view={view}&p.hfc.step=60")
        card = tab.plot(plot)
        card.get_by_role("button", name="Table").press("Enter")
        rows = rows_of(download(tab, plot, "CSV"))
        shown = [row.split("\t") for row in card.locator("tbody tr").all_inner_texts()]
        assert len(shown) == min(len(rows), 500)
        first = list(rows[0].values())
        assert shown[0][0] == first[0]
        assert float(shown[0][2].replace("−", "-")) == pytest.approx(float(first[2]), rel=1e-3)
        before = card.locator("table").inner_text()
        tab.press("End")
        if view != "curves":
            assert card.locator("table").inner_text() != before  # of the step that is drawn


@pytest.mark.slow  # 10 s; .ci/run runs them
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(tab, server, scheme):
    axe = pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    script = (files(axe) / "axe.min.js").read_text()
    tab.page.emulate_media(color_scheme=scheme)
    rules = "{}" if scheme == "light" else "{ runOnly: ['color-contrast'] }"  # colours alone differ
    for view in VIEWS:
        tab.open(server, f"p.hfc.view={view}&p.hfc.step=20")
        for button in tab.find("figure button", has_text="Table").all():
            if scheme == "light" and button.is_visible():
                button.click()
        tab.run(f"() => document.querySelectorAll('{LATER_ROWS}').forEach((row) => row.remove())")
        tab.page.evaluate(script)
        found = tab.page.evaluate(f"() => axe.run({rules})")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        assert len(found["passes"]) > (20 if scheme == "light" else 0)
