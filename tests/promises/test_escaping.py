"""Names that somebody else chose never become markup: pages are parsed, and only ours is there."""

from __future__ import annotations

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import hfc_probe
from hfc_probe import FrequencyAccuracy, KernelSpectra, Measurement, Result, Samples
from hfc_probe.cli.main import main
from hfc_probe.cli.stored import printable

EVIL = "<script>alert(1)</script>\"' onload='x' &amp;& é☃ <img src=x onerror=alert(1)>"
FILE = EVIL.replace("/", "|")  # as far as a file name can be


class Page(HTMLParser):
    """Elements, their attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements[tag] += 1
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        pytest.fail(f"a comment: {data}")

    def handle_pi(self, data):
        pytest.fail(f"an instruction: {data}")


def only(page: Page, elements: set[str], attributes: set[str]) -> None:
    assert set(page.elements) <= elements
    assert {name for name, _ in page.attributes} <= attributes
    for name, value in page.attributes:
        if name == "src":
            assert value.startswith("data:image/png;base64,")


REPORT = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "span", "ul", "li"}
REPORT |= {"p", "section", "div", "table", "thead", "tbody", "tr", "th", "td", "img"}
REPORT |= {"label", "input", "br"}  # a picture that enlarges, and a line's end


@pytest.mark.parametrize("evil", [EVIL, "a\nb", "\x1b[31mred", "\u202egnp.exe", "]]>--><!--"])
def test_the_report_of_runs_with_hostile_names(tmp_path, evil):
    file = evil.replace("/", "|")
    for name, value in ((f"A {file}", 0.2), ("B", 0.8)):
        result = {
            "measurement": evil,
            "summary": evil,
            "samples": value,  # so that it is listed as differing
            "settings": {evil: evil, "radii": [evil, value]},
            "scalars": {evil: value, f"hfc_lfc/{evil}": value},
            "intervals": {evil: [value - 0.1, value + 0.1]},
            "labels": {key: {"text": evil, "part": evil} for key in (evil, f"hfc_lfc/{evil}")},
            "provenance": {"caveats": [evil], "data": evil, "model": f"{name} {evil}", evil: evil},
        }
        (tmp_path / name).mkdir()
        for stem in (file, f"{name} only"):
            (tmp_path / name / f"{stem}.json").write_text(json.dumps(result))
            (tmp_path / name / f"{stem}.png").write_bytes(b"PNG")
    out = tmp_path / "page.html"
    pair = [str(tmp_path / f"A {file}"), str(tmp_path / "B")]
    done = CliRunner().invoke(main, ["report", *pair, "--out", str(out)])
    assert done.exit_code == 0, done.output
    page = Page(out.read_text(encoding="utf-8"))
    only(
        page,
        REPORT,
        {
            "lang",
            "charset",
            "name",
            "content",
            "class",
            "alt",
            "title",
            "src",
            "type",
            "aria-label",
        },
    )
    assert page.elements["img"] == 2
    shown = printable(evil)
    assert page.text.count(shown) >= 5  # summaries, settings, table
    assert [value for name, value in page.attributes if name == "class"].count("differs") == 1
    assert not set("\x1b\u202e") & set(done.output)  # no terminal turns red, or around
    assert len(done.output.splitlines()) == 4  # two cautions, one sentence, one count


class Evil(nn.Module):
    """A model whose layer has a hostile name; ``.`` alone is refused by torch."""

    def __init__(self):
        super().__init__()
        self.add_module(EVIL, nn.Conv2d(3, 4, 3))

    def forward(self, x):
        return getattr(self, EVIL)(x).mean((2, 3))


SAMPLES = Samples(torch.rand(8, 3, 12, 12), torch.arange(8) % 4)


class Own(Measurement):
    """A user's own measurement whose table and words are hostile."""

    def compute(self, subject):
        return OwnResult({}, 1)


class OwnResult(Result):
    def scalars(self):
        return {EVIL: 0.5}

    def arrays(self):
        return {}

    def figure(self):
        from matplotlib.figure import Figure

        return Figure()

    def table(self):
        return [EVIL, "x"], [[EVIL, EVIL]]

    def sentence(self):
        return EVIL


@pytest.mark.parametrize("measurement", [KernelSpectra(), FrequencyAccuracy(radii=(2,)), Own()])
def test_notebook_pages_of_results_with_hostile_names(measurement):
    result = measurement.measure(Evil(), SAMPLES)
    page = Page(result._repr_html_())
    elements = {"h4", "table", "thead", "tbody", "tr", "th", "td", "p", "img"}
    only(page, elements, {"style", "alt", "src"})
    assert page.elements["img"] == 1
    if not isinstance(measurement, FrequencyAccuracy):
        assert EVIL in page.text


def test_the_tab_answers_hostile_names_as_data(tmp_path):
    """Never as a page: JSON and bytes that say so, and that a browser may not take for HTML."""
    from ..tensorboard_plugin_hfc.test_plugin import BASE, client_of

    with SummaryWriter(str(tmp_path / FILE)) as writer:
        KernelSpectra().measure(Evil()).log(writer, 1)
        writer.add_scalar(f"hfc_{EVIL}/x", 0.5, 1)
    client = client_of(tmp_path)
    answer = client.get(f"{BASE}/index")
    assert json.loads(answer.data)["runs"][0]["name"] == FILE
    scalars = {"run": FILE, "tag": f"hfc_{EVIL}/x"}
    for path, query, kind in (
        ("index", {}, "application/json"),
        ("scalars", scalars, "application/json"),
        ("scalars", {"run": EVIL}, "application/json"),  # refused with a sentence
        ("image", {"key": EVIL}, "application/json"),
        ("tensors", {"run": FILE, "tag": EVIL}, "application/octet-stream"),
        (f"static/{FILE}", {}, "application/json"),
    ):
        answer = client.get(f"{BASE}/{path}", query_string=query)
        assert answer.content_type == kind
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    read = json.loads(client.get(f"{BASE}/scalars", query_string=scalars).data)
    assert read[FILE][f"hfc_{EVIL}/x"]["values"] == [0.5]


def test_the_tabs_scripts_never_turn_text_into_markup():
    """They make elements from names and put text into them as text; nothing else writes a page."""
    static = Path(hfc_probe.__file__).parents[1] / "plugins" / "tensorboard_plugin_hfc" / "static"
    scripts = {str(path): path.read_text(encoding="utf-8") for path in static.rglob("*.js")}
    assert len(scripts) > 10
    for name, text in scripts.items():
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                    "new Function", "DOMParser", "createContextualFragment", "srcdoc",
                    "javascript:"):  # fmt: skip
            assert way not in text, f"{name}: {way}"


def test_hostile_names_in_an_event_file_come_back_as_they_were(tmp_path):
    """Layer names reach tags and the text tab; the file keeps them, TensorBoard escapes them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.text.text_plugin import text_array_to_html

    result = KernelSpectra().measure(Evil())
    with hfc_probe.attach(
        Evil(), SAMPLES, log_dir=tmp_path, measurements=[FrequencyAccuracy(radii=(2,)), Own()]
    ) as probe:
        probe.measure()
    events = EventAccumulator(str(tmp_path)).Reload()
    text = events.Tensors("hfc_report/summary")[-1]
    words = np.array(text.tensor_proto.string_val[0].decode())
    page = Page(text_array_to_html(words, enable_markdown=True))
    assert set(page.elements) == {"ul", "li"}
    assert EVIL in page.text
    assert any(EVIL in tag for tag in result.scalars())
