"""README and docs: every snippet runs, every command line exists, and the pages are complete."""

from __future__ import annotations

import ast
import functools
import importlib.util
import json
import pickle
import re
import shlex
import subprocess
import sys

import click
import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

import hfc_probe
from hfc_probe.cli.main import main
from hfc_probe.measurements.registry import MEASUREMENTS, build

from .conftest import DATA, ROOT, needs_captum, needs_coco
from .toys import QUICK, classifier

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(text, language):
    return [code for kind, code in FENCE.findall(text) if kind == language]


def sections():
    """Pages cut at their second headings: each stands by itself."""
    for page in PAGES:
        for text in re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE):
            if fenced(text, "python") and page.name != "ARCHITECTURE.md":  # a sketch, and says so
                heading = text.splitlines()[0].lstrip("# ")
                yield pytest.param(page, text, id=f"{page.name}: {heading}")


# --- what the snippets take as given ---------------------------------------------------------


class Items(torch.utils.data.Dataset):
    """Items as an image processor of Hugging Face makes them."""

    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": int(self.labels[index])}


class OneBox(torch.nn.Module):
    """A detector that finds one box in each image."""

    def __init__(self, category=1):
        super().__init__()
        self.category = category

    def forward(self, images):
        box = torch.tensor([[4.0, 4.0, 20.0, 20.0]])
        return [(box, torch.tensor([0.9]), torch.tensor([self.category])) for _ in images]


def given(heading):
    """Names that the pages leave to the reader: a model, loaders, a training epoch."""
    torch.manual_seed(0)
    model = classifier()
    side = 32 if heading == "Schedule and budget" else 16  # its radii end at 16 cycles
    images, labels = torch.rand(16, 3, side, side), torch.arange(16) % 4
    data = TensorDataset(images, labels)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    names = {
        "hfc_probe": hfc_probe,
        "model": model,
        "other_model": classifier(width=16),
        "optimizer": optimizer,
        "loss": torch.nn.functional.cross_entropy,
        "train_dataset": data,
        "train_loader": DataLoader(data, 8),
        "val_loader": DataLoader(data, 8),
        "epochs": 1,
        "my_model": OneBox(),
    }

    def train_one_epoch(*ignored):
        for batch, targets in names["train_loader"]:
            optimizer.zero_grad()
            names["loss"](model(batch), targets).backward()
            optimizer.step()

    names["train_one_epoch"] = train_one_epoch
    if heading == "Hugging Face Trainer":
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        config = transformers.ViTConfig(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            image_size=16, patch_size=4, num_labels=4,
        )  # fmt: skip
        names["hf_model"] = transformers.ViTForImageClassification(config)
        names["train_dataset"] = names["eval_dataset"] = Items(images, labels)
    if heading == "MMEngine":
        names["mm_model"] = mm_model(model)
    if heading == "Lightning":
        names["lightning_module"] = lightning_module(model)
    if heading == "Audit a detector":
        from .detection import real_detector

        real_detector.needs_detector()
        names["prepare"] = real_detector.prepare
        names["decode"] = lambda outputs, height, width: real_detector.decode(
            outputs[0][0], height, width, [1] * 80
        )
    return names


def mm_model(model):
    mmengine = pytest.importorskip("mmengine.model", reason="mmengine is not installed")

    class Classifier(mmengine.BaseModel):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, inputs, labels=None, mode="tensor"):
            logits = self.model(inputs)
            if mode == "loss":
                return {"loss": torch.nn.functional.cross_entropy(logits, labels)}
            return logits

    return Classifier()


def lightning_module(model):
    lightning = pytest.importorskip("lightning", reason="lightning is not installed")

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images)

        def training_step(self, batch, index):
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, index):
            pass

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Classifier()


def write_files(folder):
    """The files that snippets read, small and of the real form."""
    (folder / "cifar-10-batches-py").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (600, 3072), dtype=np.uint8)
    batch = {b"data": pixels, b"labels": list(range(10)) * 60}
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "val2017").mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for k in (1, 2):
        name = f"{k}.png"
        Image.fromarray(pixels[k].reshape(32, 32, 3)).save(folder / "val2017" / name)
        content["images"].append({"id": k, "file_name": name, "height": 32, "width": 32})
        box = {"bbox": [4, 4, 16, 16], "area": 256, "iscrowd": 0}
        content["annotations"].append({"id": k, "image_id": k, "category_id": 1, **box})
    (folder / "instances_val2017.json").write_text(json.dumps(content))
    if (DATA / "detector" / "fastestdet.onnx").is_file():
        (folder / "fastestdet.onnx").symlink_to(DATA / "detector" / "fastestdet.onnx")


def missing_module(code):
    """A module outside this package that a snippet imports and that is not installed."""
    for node in ast.walk(ast.parse(code)):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [one.name for one in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if importlib.util.find_spec(name.split(".")[0]) is None:
                return name.split(".")[0]
    return None


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("page", "text"), list(sections()))
def test_snippets_run(page, text, tmp_path, monkeypatch):
    code = "\n".join(fenced(text, "python"))
    missing = missing_module(code)
    if missing:
        compile(code, str(page), "exec")
        pytest.skip(f"{missing} is not installed")
    if "DetectionAudit" in code:
        pytest.importorskip("pycocotools", reason="pycocotools is not installed")
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    names = given(text.splitlines()[0].lstrip("# "))
    # A module of its own, for dataclasses and pickle look a class's module up.
    module = type(sys)("snippet")
    monkeypatch.setitem(sys.modules, "snippet", module)
    vars(module).update(names)
    exec(compile(code, str(page), "exec"), vars(module))
    probe = vars(module).get("probe")
    if probe is not None:
        assert probe.results or probe.measure()
        probe.close()


# --- command lines ---------------------------------------------------------------------------


def command_lines():
    for page in PAGES:
        for block in fenced(page.read_text(), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&", line.partition("  #")[0]):
                    yield page.name, part.strip()


def arguments_of(line):
    """What a line gives to hfc-probe, also under torchrun; None: another program."""
    words = shlex.split(line)
    if words[:1] == ["hfc-probe"]:
        return words[1:]
    return words[words.index("hfc_probe") + 1 :] if "-m hfc_probe" in line else None


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_command_lines_exist(page):
    for name, line in command_lines():
        given = arguments_of(line) if name == page else None
        if given is not None:
            command, *rest = given
            if "help" in rest:
                continue  # test_registry.py
            if "--config" in rest or command.startswith("--"):
                continue  # tests/cli/test_command.py
            context = main.commands[command].make_context(command, rest)
            for spec in context.params.get("measure", ()):
                build(spec)
    text = (ROOT / "docs" / page if page != "README.md" else ROOT / page).read_text()
    for inline in re.findall(r"`(?:hfc-probe|[^`\n]*-m hfc_probe) (\w+) ([^`]*)`", text):
        known = {one for p in main.commands[inline[0]].params for one in p.opts} | {"--help"}
        assert set(re.findall(r"--[\w-]+", inline[1])) <= known, inline


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_scripts_and_extras_exist(page):
    extras = set(re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(), re.M)) | {"all"}
    for _, line in filter(lambda found: found[0] == page, command_lines()):
        script = re.search(r"\b(examples|tests)/[\w/]+\.py", line)
        if script:
            code = (ROOT / script.group()).read_text()
            options = line.partition(script.group())[2]
            if not options.startswith(":"):  # a model of audit's
                assert all(one in code for one in re.findall(r"--[\w-]+", options)), line
        if "pip install" in line:
            for named in re.findall(r"\[([\w,]+)\]", line):
                assert set(named.split(",")) <= extras, line


@pytest.mark.parametrize("name", main.commands)
def test_the_page_of_the_command_line_has_every_option(name):
    page = (ROOT / "docs" / "command_line.md").read_text()
    (section,) = re.findall(rf"^## {name.capitalize()}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    section += page.partition("## Every command\n")[2].partition("## Demo")[0]
    options = {p.opts[0] for p in main.commands[name].params if isinstance(p, click.Option)}
    assert {o for o in options if not re.search(rf"{o}(?![\w-])", section)} == set()


# --- tags ------------------------------------------------------------------------------------

# A number or name in a tag, and what the page writes in its place.
IN_TAG = [
    (r"(?<=[/_])r\d+(\.\d+)?$", "<radius>"),
    (r"(?<=_e)[\d.]+$", "<ε>"),
    (r"(?<=_k)\d+$", "<rank>"),
    (r"(?<=^hfc_heatmap/)[\d.]+", "<norm>"),
    (r"(?<=^hfc_)0(?=/)", "<layer>"),
    (r"(?<=^hfc_generated_corruption/)(?!clean_|mean_).*", "<corruption>"),
    (r"(?<=^hfc_detection/)AP\w*", "<AP>"),
    (r"(?<=^hfc_detection/)AR\d+", "<AR>"),
    (r"(?<=^hfc_detection_heatmap/)AP", "<score>"),
    (r"(?<=^hfc_detection/)(images|objects)_(gain|drop)", "<what>_<change>"),
    (r"(?<=^hfc_cost/seconds/).*", "<measurement>"),
]
IN_TEXT = [
    (r"(?<=FC\()[\d.]+", "r"),
    (r"(?<=rank )\d+", "k"),
    (r"(?<= = )[\d.]+", "…"),
    (r"(?<=norm )\d+", "v"),
    (r"(?<=of the band ).*(?= \()", "that ends at the radius"),
    (r"(?<=kernels of )0", "the layer"),
    (r"(?<=error under ).*", "the corruption"),
    (r"^AP\w* (?=on )", "AP "),
    (r"^AR\d+ (?=on )", "average recall "),
    (r"(?<=t )AP(?= lost)|(?<=n )AP(?= of single| lost)", "<score>"),
    (r"(?<=RMS )[\d.]+", "v"),
    (r"^images that (gain|lose)(?= without)", "images that gain or lose"),
    (r"^(images|objects) that (gain|lose)(?! or)", "images or objects that gain or lose"),
    (r" \(0\.05\)$", ""),
]


def generic(text, rules):
    return functools.reduce(lambda said, rule: re.sub(rule[0], rule[1], said), rules, text)


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """What TensorBoard has of all measurements: rows (tag, kind, what it is)."""
    from .detection.known_answer import BLOB, PlantedShapes

    folder = tmp_path_factory.mktemp("tags")
    torch.manual_seed(0)
    model = classifier()
    samples = hfc_probe.Samples(torch.rand(12, 3, 16, 16), torch.arange(12) % 4)
    measured = [kind(**QUICK.get(name, {})) for name, kind in MEASUREMENTS.items()]
    with hfc_probe.attach(model, samples, log_dir=folder, measurements=measured) as probe:
        results = [*probe.measure().values()]
    score = hfc_probe.ImageScore(score=lambda o, t: o.sum(1), label="<score>", bootstrap=100)
    results.append(score.measure(model, samples))
    audit = hfc_probe.detection.DetectionAudit(radii=(12,), bootstrap=0, control=True)
    results.append(audit.measure(OneBox(BLOB), PlantedShapes(2, 0)))
    shapes = PlantedShapes(2, 0)
    boxes, labels = (
        torch.cat([t[k] for t in shapes.targets.values()]) for k in ("boxes", "labels")
    )
    answer = [(boxes, torch.full((len(labels),), 0.9), labels)]  # those of both images
    heatmap = hfc_probe.detection.DetectionHeatmap(crop=1)
    results.append(heatmap.measure(lambda images: answer, shapes))
    with SummaryWriter(str(folder)) as writer:
        for result in results[-3:]:
            result.log(writer, 0, figure=True)
    labels = {tag: one.text for result in results for tag, one in result.labels().items()}
    kinds = {"scalars": "scalar", "images": "picture", "histograms": "histogram"}
    log = EventAccumulator(str(folder), {"images": 1}).Reload().Tags()
    rows = {}
    for key, kind in kinds.items():
        for tag in log[key]:
            said = generic(labels.get(tag, ""), IN_TEXT)
            rows.setdefault(generic(tag, IN_TAG), (kind, said))
    # Arrays for the tab are tensors too, under the measurement's name.
    rows |= {tag: ("text", "") for tag in log["tensors"] if tag.startswith("hfc_")}
    return rows


@needs_captum
@needs_coco
def test_the_page_has_every_tag(logged):
    page = (ROOT / "docs" / "tags.md").read_text()
    listed = re.findall(r"^\| `(hfc_[^`]*)` \| (\w+) \| (.*) \|$", page, re.MULTILINE)
    assert len(listed) == len({tag for tag, *_ in listed})
    unlabelled = {tag for tag, (_, said) in logged.items() if not said}
    expected = [f"| `{tag}` | {kind} | {said} |" for tag, (kind, said) in logged.items()]
    for tag, kind, said in listed:
        assert tag in logged, f"{tag} is not logged; expected\n" + "\n".join(expected)
        assert (kind, said) == logged[tag] or (tag in unlabelled and kind == logged[tag][0]), tag
    missing = set(logged) - {tag for tag, *_ in listed}
    assert not missing, "\n".join(line for line in expected if line.split("`")[1] in missing)


# --- pages -----------------------------------------------------------------------------------


def test_the_readme_is_short_and_links_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    linked = set(re.findall(r"\(docs/(\w+\.md)", text))
    assert linked == {page.name for page in PAGES[1:]} - {"index.md"}


def test_the_api_page_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text()
    public = set(hfc_probe.__all__) - {"__version__"}
    assert {name for name in public if not re.search(rf"hfc_probe\.{name}\b", page)} == set()


def test_links_lead_to_files():
    for page in PAGES:
        prose = FENCE.sub("", page.read_text())
        for target in re.findall(r"\]\(([^)#]+)", prose):
            if not re.match(r"https?:", target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_public_checks_run_on_the_versions_of_setup_py():
    setup = (ROOT / "setup.py").read_text()
    jobs = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (matrix,) = re.findall(r"python-version: \[(.*)\]", jobs)
    assert re.findall(r"[\d.]+", matrix) == re.findall(r"Python :: (3\.\d+)", setup)
    command = [sys.executable, ROOT / ".ci" / "minimum.py"]
    oldest = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    required = re.findall(
        r'^        "([\w-]+)>=([\d.]+)', setup.partition("install_requires")[2], re.M
    )
    assert {f"{name}=={version}.*" for name, version in required} <= set(oldest)
    assert "lightning==2.4.*" in oldest  # of an extra
    assert not any(one.startswith(("pytest", "sphinx")) for one in oldest)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    for name in ("sphinx", "myst_nb", "furo"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'hfc_probe[docs]'")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-Dnb_execution_mode=off",
        ROOT / "docs",
        tmp_path,
    ]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    api = (tmp_path / "api.html").read_text()
    for name in ("attach", "FrequencyAccuracy", "detection.DetectionAudit", "fourier.split"):
        assert f'id="hfc_probe.{name}"' in api
    # It works from a folder: nothing is loaded from elsewhere.
    start = (tmp_path / "index.html").read_text()
    assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(?:https?:)?//', start)
