"""``--data`` csv:, parquet:, hf: and tar: give what a folder of the same images gives."""

from __future__ import annotations

import csv
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from hfc_probe import InputError
from hfc_probe.cli.class_names import folder_classes, read_class_names
from hfc_probe.cli.data import load_samples
from hfc_probe.cli.listings import read_listing
from hfc_probe.cli.main import main

from ..conftest import cli_runner
from .test_cli_folder import Sized

CLASSES = ["cat", "dog", "owl"]
FORMS = ["csv", "parquet", "parquet of paths", "hf", "tar"]


def encoded(k):
    """An image file as people have them: JPEG and PNG, RGB and grey, one turned (EXIF)."""
    rng = np.random.default_rng(k)
    buffer = io.BytesIO()
    if k == 1:
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).save(
            buffer, "jpeg", exif=exif
        )
    else:
        shape = (14, 14) if k == 2 else (14, 14, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def rows():
    """Files of two images per class, in the order of a folder."""
    return [
        (f"{name}/{k}.{'jpg' if k == 1 else 'png'}", encoded(k), name)
        for k, name in enumerate(sorted(CLASSES * 2))
    ]


def write_folder(root, files):
    for path, content, _ in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def write(root, form, files, numbers=False):
    """The files in one of the forms; the ``--data`` that reads it."""
    root.mkdir(exist_ok=True)
    labels = [CLASSES.index(name) if numbers else name for *_, name in files]
    if form == "csv":
        write_folder(root / "pictures", files)
        with (root / "list.csv").open("w", newline="") as stream:
            lines = [
                (f"pictures/{path}", label) for (path, *_), label in zip(files, labels, strict=True)
            ]
            csv.writer(stream).writerows([("path", "label"), *lines])
        return f"csv:{root / 'list.csv'}"
    if form == "tar":
        halves = ("a.tar", files[:3], labels[:3]), ("b.tar", files[3:], labels[3:])
        for shard, some, theirs in halves:
            with tarfile.open(root / shard, "w") as archive:
                for (path, content, _), label in zip(some, theirs, strict=True):
                    for name, data in (
                        (path, content),
                        (path.partition(".")[0] + ".cls", str(label).encode()),
                    ):
                        member = tarfile.TarInfo(name)
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
        return f"tar:{root}/*.tar"
    if form == "hf":
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
        if not numbers:
            features["label"] = datasets.ClassLabel(names=CLASSES)
        images = [{"bytes": content, "path": None} for _, content, _ in files]
        data = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        datasets.DatasetDict({"test": data, "train": data.select([0])}).save_to_disk(root / "hf")
        return f"hf:{root / 'hf'},split=test"
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    images = [content for _, content, _ in files]
    if form == "parquet of paths":
        write_folder(root, files)
        images = [path for path, *_ in files]
    parquet.write_table(pyarrow.table({"picture": images, "label": labels}), root / "x.parquet")
    return f"parquet:{root / 'x.parquet'},image=picture"


@pytest.mark.parametrize("numbers", [False, True], ids=["names", "numbers"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_pixels_classes_and_caveats_of_a_folder(tmp_path, form, numbers):
    write_folder(tmp_path / "folder", rows())
    expected, _ = load_samples(f"folder:{tmp_path / 'folder'}", Sized(3), size=12)
    spec = write(tmp_path / "form", form, rows(), numbers)
    samples, logits = load_samples(spec, Sized(3), size=12)
    assert logits == 3
    assert samples.images.dtype == torch.uint8
    assert torch.equal(samples.images, expected.images)
    assert samples.targets.tolist() == expected.targets.tolist() == [0, 0, 1, 1, 2, 2]
    assert samples.caveats == expected.caveats
    assert any("EXIF" in one for one in samples.caveats)
    assert samples.provenance.get("resampling") == expected.provenance.get("resampling")
    assert f"{form.split()[0]}:" in samples.provenance["data"]


@pytest.mark.parametrize("form", FORMS)
def test_a_corrupt_image_is_named_and_skipped_if_asked(tmp_path, form):
    files = rows()
    path, content, name = files[3]
    files[3] = (path, content[:40], name)
    spec = write(tmp_path / "form", form, files)
    where = f"{name}/3.png" if form in ("csv", "tar") else "row 3 of"
    with pytest.raises(InputError, match=f"an image in .*{where}.* cannot be read as one"):
        load_samples(spec, Sized(3))
    samples, _ = load_samples(spec, Sized(3), skip_broken=True)
    assert len(samples) == 5
    assert any("1 of 6 images cannot be read" in one for one in samples.caveats)


@pytest.mark.parametrize("form", ["csv", "parquet", "hf"])
def test_a_wrong_column_and_a_missing_file_are_one_sentence(tmp_path, form):
    spec = write(tmp_path / "form", form, rows())
    have = "picture" if form == "parquet" else "path" if form == "csv" else "image"
    with pytest.raises(InputError, match=f"a column 'species' in .*, got {have}, label; name it"):
        load_samples(f"{spec},label=species", Sized(3))
    with pytest.raises(InputError, match=r"expected .*, got .*nowhere"):
        load_samples(f"{form}:{tmp_path / 'nowhere'}", Sized(3))
    with pytest.raises(InputError, match="got colour"):
        load_samples(f"{spec},colour=x", Sized(3))


def test_names_of_labels_are_looked_up_in_the_models(tmp_path):
    spec = write(tmp_path / "form", "csv", rows())
    (tmp_path / "names.txt").write_text("owl\ncow\ncat\ndog\n")
    names = read_class_names(tmp_path / "names.txt")
    samples, _ = load_samples(spec, Sized(4), class_names=names)
    assert samples.targets.tolist() == [2, 2, 3, 3, 0, 0]
    with pytest.raises(InputError, match="expected 4 class folders"):
        load_samples(spec, Sized(4))
    numbers = write(tmp_path / "numbers", "csv", rows(), numbers=True)
    with pytest.raises(InputError, match="expected labels that are names, got numbers"):
        load_samples(numbers, Sized(4), class_names=names)
    with pytest.raises(InputError, match="from 0 to 1, the model's 2 logits, got 2"):
        load_samples(numbers, Sized(2))


def test_hugging_faces_class_names_are_read(tmp_path):
    spec = write(tmp_path / "form", "hf", rows())
    (tmp_path / "names.txt").write_text("owl\ncow\ncat\ndog\n")
    names = read_class_names(tmp_path / "names.txt")
    samples, _ = load_samples(spec, Sized(4), class_names=names)
    assert samples.targets.tolist() == [2, 2, 3, 3, 0, 0]
    with pytest.raises(InputError, match=",split=NAME with one of test, train"):
        load_samples(spec.partition(",")[0], Sized(3))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("path,label\nno.png,cat\n", "an image in no.png, got a file that cannot be read"),
        ("path,label\na.png,\n", "a path and a label in each line of x.csv, got line 2 without"),
        ("a.png,cat\n", "a column of images in x.csv, got a.png, cat; name it with ,image=COLUMN"),
        ("path,label\n", "expected images in .*x.csv, got none"),
        ("", "a column of images in x.csv, got none"),
        ("path,label\na.png,0\nb.png,-1\n", "labels that are class numbers .* got -1"),
        ("path,label\na.png,0.5\nb.png,1\n", "labels that are class numbers .* got 0.5"),
    ],
)
def test_what_is_wrong_with_a_csv_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=sentence):
        load_samples(f"csv:{tmp_path / 'x.csv'}", Sized(1))


def test_numbers_with_decimals_are_numbers(tmp_path):
    """As pandas writes them if a column had a gap; as names, 10.0 would come before 2.0."""
    lines = "".join(f"{k}.png,{k}.0\n" for k in range(12))
    (tmp_path / "x.csv").write_text(f"path,label\n{lines}")
    found = read_listing("csv", str(tmp_path / "x.csv"))
    assert [label for _, label in found.files] == list(range(12))
    assert found.names == []


def test_a_data_sets_own_order_of_names_is_kept_and_said():
    names = ["owl", "cat", "dog"]
    assert folder_classes(names, 3) == ([0, 1, 2], "in the order of the data set's names")
    assert folder_classes(names, 3, "sorted")[0] == [2, 0, 1]


def test_a_compressed_shard_is_refused_as_such(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz"):
        pass
    with pytest.raises(InputError, match=r"an uncompressed .tar file, got x.tar"):
        read_listing("tar", str(tmp_path / "x.tar"))


def test_labels_of_a_shard_in_json_and_none_at_all(tmp_path):
    def shard(*parts):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            for name, content in parts:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return f"tar:{tmp_path / 'x.tar'}"

    spec = shard(("1.png", encoded(0)), ("1.json", json.dumps({"label": 1}).encode()))
    assert load_samples(spec, Sized(3))[0].targets.tolist() == [1]
    with pytest.raises(InputError, match=r"a label beside each image in x.tar.*got none for 1"):
        load_samples(shard(("1.png", encoded(0))), Sized(3))
    (tmp_path / "x.tar").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"expected an uncompressed .tar file, got x.tar"):
        load_samples(f"tar:{tmp_path / 'x.tar'}", Sized(3))


@pytest.mark.parametrize(("kind", "library"), [("parquet", "pyarrow"), ("hf", "datasets")])
def test_a_missing_library_names_its_extra(tmp_path, monkeypatch, kind, library):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(InputError, match=r"pip install 'hfc_probe\[(parquet|datasets)\]'"):
        load_samples(f"{kind}:{tmp_path}", Sized(3))


@pytest.mark.slow
def test_an_audit_of_shards_is_that_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "folder", rows())
    spec = write(tmp_path / "form", "tar", rows())
    (tmp_path / "model.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    found = []
    for data in (f"folder:{tmp_path / 'folder'}", spec):
        words = ["audit", "--model", "model.py:build", "--normalize", "none", "--radii", "2,4"]
        run = cli_runner().invoke(main, [*words, "--data", data, "--size", "12", "--out", "out"])
        assert run.exit_code == 0, run.stderr
        saved = json.loads((tmp_path / "out" / "frequency_accuracy.json").read_text())
        found.append((saved["scalars"], saved["provenance"]["images"]))
    assert found[0] == found[1]
