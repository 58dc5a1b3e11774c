"""The papers' recipes, on planted images whose verdict is known, and what judges them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples.papers import RECIPES
from examples.papers.__main__ import main
from examples.papers.claims import AGREES, DISAGREES, OPEN, Claim, interval, judge
from examples.papers.running import recipe, reproduce
from hfc_probe.core.intervals import wilson

# Names in the numbers that change places when the two runs of a recipe do.
SWAPS = {
    "hfc_figure2": ("high_only", "by_chance"),
    "hfc_figure3": ("natural/", "shuffled/"),
    "hfc_table1": ("lfc_", "hfc_"),
    "hfc_figure7": ("natural/", "adversarial/"),
}
# Claims that the planted images leave open: LFC(4) holds all of their class, as LFC(16) does, and
# shuffled labels are not learned in three epochs.
LEFT_OPEN = {
    "LFC(16) is enough for a better network than LFC(4)",
    "Once learned, LFC(4) alone gives more of the natural labels",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Runs a recipe at smoke scale, once: its verdicts and its folder."""
    done = {}

    def get(name):
        if name not in done:
            out = tmp_path_factory.mktemp(name)
            verdicts = reproduce(name, "smoke", dataset="planted", root=out, out=out)
            done[name] = verdicts, out
        return done[name]

    return get


def swapped(numbers, one, other):
    """The numbers with the labels of two runs exchanged."""
    back = {one: other, other: one}
    return {
        next((back[k] + name.removeprefix(k) for k in back if name.startswith(k)), name): value
        for name, value in numbers.items()
    }


@pytest.mark.parametrize("name", RECIPES)
def test_planted_truth_gets_its_verdict_and_swapped_runs_the_opposite(name, ran):
    verdicts, out = ran(name)
    found = {v.claim.text: v.verdict for v in verdicts}
    assert found == {text: OPEN if text in LEFT_OPEN else AGREES for text in found}
    report = json.loads((out / name / "smoke-planted" / "result.json").read_text())
    numbers = swapped(report["numbers"]["0"], *SWAPS[name])
    between = [
        claim
        for claim in recipe(name).CLAIMS
        if swapped({claim.larger: 0}, *SWAPS[name]).keys() == {claim.smaller}
        and claim.text not in LEFT_OPEN
    ]
    assert between
    assert {judge(claim, [numbers]).verdict for claim in between} == {DISAGREES}


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_run_leaves(name, ran):
    verdicts, out = ran(name)
    folder = out / name / "smoke-planted"
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((folder / "result.json").read_text())
    assert [claim["verdict"] for claim in report["claims"]] == [v.verdict for v in verdicts]
    assert report["settings"]["network"] == "cnn"
    assert {"torch", "hfc_probe", "device"} <= set(report["versions"])
    logs = {path.parent for path in folder.rglob("events.out.*")}
    assert logs
    for log in logs:
        tags = EventAccumulator(str(log)).Reload().Tags()
        assert any(tag.startswith("hfc_") for tag in tags["scalars"])


def test_a_finished_seed_is_read_back_and_another_setting_is_run_again(ran):
    verdicts, out = ran("hfc_figure2")
    folder = out / "hfc_figure2" / "smoke-planted" / "seed0"
    kept = json.loads((folder / "run.json").read_text())
    kept["numbers"]["high_only"] = [0.5, 0.4, 0.6]  # seen again only if the file is read
    (folder / "run.json").write_text(json.dumps(kept))
    said = CliRunner().invoke(main, ["hfc_figure2", "--scale", "smoke", "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert "50 % against" in said.output
    assert "2 × agrees" in said.output
    kept["settings"]["epochs"] = 99
    (folder / "run.json").write_text(json.dumps(kept))
    again = reproduce("hfc_figure2", "smoke", dataset="planted", root=out, out=out)
    assert [v.ours for v in again] == [v.ours for v in verdicts]  # the same seed, the same run


def test_a_recipe_that_fails_is_named_and_the_others_are_run(tmp_path):
    options = ["--dataset", "folder", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path)]
    said = CliRunner().invoke(main, ["hfc_figure2", "hfc_figure7", *options])
    assert said.exit_code == 1
    assert "failed: hfc_figure2, hfc_figure7" in said.output


def test_interval_is_students_over_seeds_and_newcombes_over_images():
    """Differences 0.1, 0.2, 0.3: 0.2 ± 4.303 · 0.1 / √3, from a table of t."""
    lower, upper = interval([[0.5], [0.6], [0.7]], [[0.4], [0.4], [0.4]])
    np.testing.assert_allclose([lower, upper], [0.2 - 0.2484, 0.2 + 0.2484], atol=1e-4)
    # Newcombe 1998, Table II, (a): 56/70 − 48/80 by method 10, from Wilson's intervals of each.
    first, second = ([k / n, *wilson(k, n)] for k, n in ((56, 70), (48, 80)))
    np.testing.assert_allclose(interval([first], [second]), (0.0524, 0.3339), atol=5e-5)


def test_verdict_follows_from_the_interval():
    claim = Claim("a is larger", "a", 0.5, "yes")
    for value, expected in ((0.7, AGREES), (0.52, OPEN), (0.3, DISAGREES)):
        runs = [{"a": [value, value - 0.05, value + 0.05]}]
        assert judge(claim, runs).verdict == expected
    assert judge(claim, [{"a": [0.9]}, {"a": [0.2]}]).verdict == OPEN  # seeds disagree
    assert judge(claim, [{"a": [0.9]}, {"a": None}]).verdict == OPEN
    assert judge(claim, [{"a": None}]).ours == "not reached"
