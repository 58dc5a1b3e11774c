"""``--data folder:``: which class a folder is, and what is done to its images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from hfc_probe import InputError, PixelSpace
from hfc_probe.cli.class_names import own_class_names, read_class_names
from hfc_probe.cli.data import check_labels, load_samples, load_splits, read_npz
from hfc_probe.cli.folders import ClassFolders, FolderImages
from hfc_probe.cli.main import main
from hfc_probe.cli.preprocessing import Preprocessing

from ..conftest import ROOT, needs_timm

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Sized(nn.Module):
    """Takes images of some channels; as many logits as it is told."""

    def __init__(self, logits: int, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, logits, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


def pictures(root, names, *, size=(12, 12), ending="png", mode="RGB", each=1):
    """One folder per name; image k of folder n is all of the value 10 n + k."""
    for n, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for k in range(each):
            Image.new("L", size, 10 * n + k).convert(mode).save(root / name / f"{k}.{ending}")
    return f"folder:{root}"


def classes_of(spec, logits, **options):
    """The class that each folder's first image has, by the folder's name."""
    names = ClassFolders.scan(spec.partition(":")[2]).names
    samples, count = load_samples(spec, Sized(logits), **options)
    assert count == logits
    values = samples.images[:, 0, 0, 0].tolist()
    written = {name: 10 * n for n, name in enumerate(names)}
    found = dict(zip(values, samples.targets.tolist(), strict=True))
    return {name: found[value] for name, value in written.items() if value in found}


def test_as_many_folders_as_logits_are_in_sorted_order(tmp_path):
    spec = pictures(tmp_path, sorted(CIFAR))
    assert classes_of(spec, 10) == {name: k for k, name in enumerate(CIFAR)}
    samples, _ = load_samples(spec, Sized(10))
    assert "in the order of their sorted names" in samples.provenance["data"]


def test_too_few_folders_are_refused_and_found_by_name(tmp_path):
    spec = pictures(tmp_path / "data", ["cat", "dog", "ship"])
    with pytest.raises(InputError, match=r"expected 10 class folders.*got 3 \(cat, dog, ship\)"):
        load_samples(spec, Sized(10))
    (tmp_path / "names.txt").write_text("\n".join(CIFAR) + "\n")
    given = read_class_names(tmp_path / "names.txt")
    assert classes_of(spec, 10, class_names=given) == {"cat": 3, "dog": 5, "ship": 8}
    model = Sized(10)
    model.classes = CIFAR
    samples, _ = load_samples(
        spec, model, own_names=lambda logits: own_class_names("m.py:f", model, logits)
    )
    assert samples.targets.tolist() == [3, 5, 8]
    assert "by the model's classes" in samples.provenance["data"]


@pytest.mark.parametrize(
    "content",
    [
        {str(k): name for k, name in enumerate(CIFAR)},
        {name: k for k, name in enumerate(CIFAR)},
        {"model_type": "x", "id2label": {str(k): name for k, name in enumerate(CIFAR)}},
        {str(k): [f"n{k:08}", name] for k, name in enumerate(CIFAR)},
        {"cat": 3, "dog": 5, "ship": 8},
        CIFAR,
    ],
)
def test_class_names_as_json_in_all_its_forms(tmp_path, content):
    spec = pictures(tmp_path / "data", ["Cat", "dog", "ship"])
    (tmp_path / "names.json").write_text(json.dumps(content))
    given = read_class_names(tmp_path / "names.json")
    assert classes_of(spec, 10, class_names=given) == {"Cat": 3, "dog": 5, "ship": 8}


def test_lines_of_the_imagenet_synset_list_and_a_name_that_two_classes_have(tmp_path):
    lines = ["n01440764 tench, Tinca tinca", "n02012849 crane", "n03126707 crane"]
    (tmp_path / "names.txt").write_text("\n".join(lines))
    given = read_class_names(tmp_path / "names.txt")
    assert [given.find(n) for n in ("tench", "Tinca_tinca", "n03126707", "crane", "x")] == [
        *(0, 0, 2, None, None),
    ]


@pytest.mark.parametrize("form", ["{1} {0}", "{0}: {1}", "{1},{0}", "{0}\t{1}"])
def test_lines_with_their_index(tmp_path, form):
    file = tmp_path / "names.txt"
    file.write_text("\n".join(form.format(k, CIFAR[k]) for k in reversed(range(10))))
    given = read_class_names(file)
    assert [given.find(name) for name in CIFAR] == list(range(10))
    file.write_text("\n".join(form.format(k + 1, CIFAR[k]) for k in range(10)))
    with pytest.raises(InputError, match="numbers, if any, from 0"):
        read_class_names(file)
    file.write_text("Boeing 707\nBoeing 717\n")
    assert read_class_names(file).find("boeing_717") == 1


@needs_timm
def test_imagenet_synset_folders_have_their_index(tmp_path):
    spec = pictures(tmp_path, ["n01440764", "n01443537", "n15075141"])
    found = classes_of(spec, 1000, own_names=lambda k: own_class_names("m.py:f", nn.Module(), k))
    assert found == {"n01440764": 0, "n01443537": 1, "n15075141": 999}


def test_folders_named_by_the_weights_categories(tmp_path):
    spec = pictures(tmp_path, ["goldfish", "great_white_shark"])
    own = own_class_names("torchvision:resnet18", nn.Module(), 1000)
    assert classes_of(spec, 1000, own_names=lambda k: own) == {
        "goldfish": 1,
        "great_white_shark": 2,
    }


def test_numbers_sorted_as_text_are_refused_until_one_says_which(tmp_path):
    spec = pictures(tmp_path, sorted(map(str, range(11))))
    with pytest.raises(InputError, match="--class-names numbers if a folder's number"):
        load_samples(spec, Sized(11))
    assert classes_of(spec, 11, class_names="numbers")["10"] == 10
    assert classes_of(spec, 11, class_names="sorted")["10"] == 2


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["cat", "dgo"], "one class of names.txt each, got dgo; did you mean dog"),
        (["cat", "Cat"], "one folder per class, got Cat, cat for one class"),
    ],
)
def test_names_that_do_not_fit(tmp_path, names, sentence):
    spec = pictures(tmp_path / "data", sorted(names))
    (tmp_path / "names.txt").write_text("\n".join(CIFAR))
    with pytest.raises(InputError, match=sentence):
        load_samples(spec, Sized(10), class_names=read_class_names(tmp_path / "names.txt"))
    with pytest.raises(InputError, match=r"expected 4 names.*got 10 in names.txt"):
        load_samples(spec, Sized(4), class_names=read_class_names(tmp_path / "names.txt"))


def test_splits_are_no_classes(tmp_path):
    for split in ("train", "val"):
        pictures(tmp_path / split, ["cat", "dog"])
    with pytest.raises(InputError, match=r"got train, val .* such as folder:.*/val"):
        load_samples(f"folder:{tmp_path}", Sized(2))
    samples, _ = load_samples(f"folder:{tmp_path / 'val'}", Sized(2))
    assert samples.targets.tolist() == [0, 1]


def test_what_does_not_count(tmp_path):
    spec = pictures(tmp_path, ["a", "b", ".ipynb_checkpoints", "__MACOSX"], ending="PNG")
    (tmp_path / "a" / ".DS_Store").write_text("")
    (tmp_path / "a" / "notes.txt").write_text("")
    (tmp_path / "b" / "again").symlink_to(tmp_path / "b")
    (tmp_path / "c").mkdir()  # without images, but a class
    samples, _ = load_samples(spec, Sized(3))
    assert samples.targets.tolist() == [0, 1]
    assert samples.caveats == ("1 file is no class image and left out: a/notes.txt",)


@pytest.mark.parametrize(
    ("size", "asked", "side", "resampling"),
    [
        ((32, 32), None, 32, None),
        ((32, 32), 32, 32, None),
        ((32, 32), 28, 28, None),  # a crop
        ((32, 32), 24, 24, "4 of 4 images resized (shorter side from 32 to 27 pixels, bilinear)"),
        ((32, 32), 40, 40, "4 of 4 images resized (shorter side from 32 to 40 pixels, bilinear)"),
    ],
)
def test_images_keep_their_pixels_where_they_can(tmp_path, size, asked, side, resampling):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, *size, 3), dtype=np.uint8)
    for k, one in enumerate(pixels):
        (tmp_path / str(k)).mkdir()
        Image.fromarray(one).save(tmp_path / str(k) / "x.png")
    samples, _ = load_samples(f"folder:{tmp_path}", Sized(4), size=asked)
    assert samples.image_shape == (3, side, side)
    assert samples.provenance.get("resampling", "")[: len(resampling or "")] == (resampling or "")
    assert ("resampling" in samples.provenance) == (resampling is not None)
    if resampling is None:
        edge = (32 - side) // 2
        inner = pixels[:, edge : edge + side, edge : edge + side].transpose(0, 3, 1, 2)
        assert np.array_equal(samples.images.numpy(), inner)
    enlarged = "a low-pass filter" in " ".join(samples.caveats)
    assert enlarged == (side > 32)


def test_images_of_several_sizes_go_to_the_published_one(tmp_path):
    pictures(tmp_path / "a", ["x"], size=(40, 30))
    pictures(tmp_path / "b", ["x"], size=(20, 64))
    samples, _ = load_samples(f"folder:{tmp_path}", Sized(2), how=Preprocessing(size=28))
    assert samples.image_shape == (3, 28, 28)
    assert "1 of 2 images resized" in samples.provenance["resampling"]
    assert samples.caveats[0].startswith("1 of 2 images were resized from fewer pixels (such as")
    with pytest.raises(InputError, match="images of one size, got 2 sizes from 40×30 to 20×64"):
        FolderImages(ClassFolders.scan(tmp_path), None).samples()


def test_sixteen_bits_are_read_to_scale(tmp_path):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16).repeat(8, 0)
    for ending in ("png", "tif"):
        (tmp_path / ending).mkdir()
        Image.fromarray(values.repeat(8, 1)).save(tmp_path / ending / f"x.{ending}")
    samples, _ = load_samples(f"folder:{tmp_path}", Sized(2))
    expected = torch.tensor([0, 100, 200, 255]) / 255
    for image in samples.pixels():
        assert torch.allclose(image[:, ::8, ::8].flatten(1), expected.expand(3, 4), atol=1e-6)
    (tmp_path / "float").mkdir()
    Image.fromarray(np.ones((16, 16), np.float32)).save(tmp_path / "float" / "x.tif")
    with pytest.raises(InputError, match=r"float/x\.tif of F, whose white is not known"):
        load_samples(f"folder:{tmp_path}", Sized(3))


@pytest.mark.parametrize(("mode", "ending"), [("P", "png"), ("CMYK", "tif"), ("L", "png")])
def test_other_colour_modes_are_read_as_rgb(tmp_path, mode, ending):
    spec = pictures(tmp_path, "abcd", mode=mode, ending=ending)
    samples, _ = load_samples(spec, Sized(4))
    assert samples.images[:, :, 0, 0].tolist() == [[10 * n] * 3 for n in range(4)]


def test_transparent_and_turned_images_are_said(tmp_path):
    pictures(tmp_path, "ab")
    Image.new("RGBA", (12, 12), (9, 9, 9, 100)).save(tmp_path / "a" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 12)).save(tmp_path / "b" / "0.png", exif=exif)
    samples, _ = load_samples(f"folder:{tmp_path}", Sized(2))
    assert [c[:29] for c in samples.caveats] == [
        "1 of 2 images are partly tran",
        "1 of 2 images are stored turn",
    ]


def test_grey_images_fit_a_grey_model_and_coloured_ones_do_not(tmp_path):
    spec = pictures(tmp_path, "ab")
    samples, _ = load_samples(spec, Sized(2, channels=1), pixels=PixelSpace((0.5,), (0.5,)))
    assert samples.image_shape == (1, 12, 12)
    Image.new("RGB", (12, 12), (1, 2, 3)).save(tmp_path / "a" / "0.png")
    with pytest.raises(InputError, match="12×12 pixels with 3 channels, got RuntimeError"):
        load_samples(spec, Sized(2, channels=1))


def test_broken_images_are_named_or_skipped(tmp_path):
    spec = pictures(tmp_path, "ab", each=3)
    (tmp_path / "a" / "1.png").write_bytes(b"junk")
    whole = (tmp_path / "b" / "2.png").read_bytes()
    (tmp_path / "b" / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"expected an image in a/1.png, got a file that cannot"):
        load_samples(spec, Sized(2))
    samples, _ = load_samples(spec, Sized(2), skip_broken=True)
    assert samples.targets.tolist() == [0, 0, 1, 1]
    assert samples.caveats == ("2 of 6 images cannot be read and were left out: a/1.png, b/2.png",)


def test_labels_that_can_hardly_be_the_models_own():
    every, even = torch.arange(10).repeat(9), torch.arange(1000)
    assert check_labels(every, 10) == check_labels(even[::20], 1000) == []
    assert "from 0 to 2 while the model has 10 classes" in check_labels(every % 3, 10)[0]
    assert "from 1 to 9" in check_labels(every.clamp(min=1), 10)[0]
    with pytest.raises(InputError, match="got 10; do they start at 1"):
        check_labels(every + 1, 10)


@pytest.mark.parametrize(("scale", "kind"), [(1 / 255, np.uint8), (1 / 65025, np.float32)])
def test_images_scaled_twice_are_refused(tmp_path, scale, kind):
    images = (np.full((4, 3, 8, 8), 255) * scale).astype(kind)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(4))
    with pytest.raises(InputError, match="nearly black; were they scaled twice"):
        read_npz(tmp_path / "x.npz")


def test_the_demo_takes_the_classes_of_train_for_val(tmp_path):
    pictures(tmp_path / "train", "abc", each=2)
    pictures(tmp_path / "val", "bc")
    train, val, classes = load_splits(f"folder:{tmp_path}")
    assert (len(train), classes) == (6, 3)
    assert val.targets.tolist() == [1, 2]
    pictures(tmp_path / "val" / "z", ["x"])
    with pytest.raises(InputError, match="the folders of train each, got z"):
        load_splits(f"folder:{tmp_path}")


MODEL = """
import torch
from torch import nn

def fresh():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)

def fixed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

class Detector(nn.Conv2d):
    def forward(self, images):
        return [{"boxes": None, "scores": None, "labels": None} for _ in images]

def detector():
    return Detector(3, 4, 1)
"""


@pytest.fixture
def audit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(MODEL)
    pictures(Path("data"), "abcd", each=6)

    def run(*options, model="fixed", data="folder:data"):
        command = ["audit", "--model", f"m.py:{model}", "--data", data, "--normalize", "none"]
        return CliRunner().invoke(main, [*command, "--radii", "2", "--out", "out", *options])

    return run


def test_an_untrained_network_is_said_first(audit):
    result = audit(model="fresh")
    assert result.exit_code == 0, result.output
    first, second, *_ = [line for line in result.output.splitlines() if line]
    assert first.startswith("Caution: the model's BatchNorm statistics are those of a network that")
    assert "fresh draws 0.weight, 0.bias at random each time: an untrained network" in second
    assert Path("out/summary.txt").read_text().splitlines()[1] == first  # before any number
    # With a checkpoint, and with a model that is the same each time, there is nothing to say.
    assert "Caution" not in audit(model="fixed").output


@pytest.mark.parametrize(
    ("options", "changed", "sentence"),
    [
        (["--size", "9"], {"data": "npz:x"}, "--size: expected with image files in --data only"),
        (
            ["--skip-broken"],
            {"data": "npz:x"},
            "--skip-broken: expected with image files in --data",
        ),
        (["--classes", "4"], {}, "--classes: expected with a torchvision or timm model"),
        (["--measure", "frequency_accuracy"], {}, "--radii: expected without --measure freq"),
        (
            ["--layer", "0", "--measure", "kernel_spectra"],
            {},
            "--layer: expected without --measure kernel_spectra only",
        ),
        (["--radii", "0.25"], {}, "multiply by half the image's side"),
        (["--radii", "inf"], {}, "--radii: expected finite numbers, got inf"),
        (["--topk", "4"], {}, "--topk: expected fewer than the model's 4 logits, got 4"),
        (["--device", "meta"], {}, "--device: expected a device of this machine"),
        (["--class-names", "no"], {}, "expected a file, numbers or sorted, got no (no such file)"),
        ([], {"model": "lazy"}, "got lazy 0.weight; give it one batch when it is made"),
        ([], {"model": "detector"}, "a detector is measured by hfc-probe detect"),
        (
            ["--model", "torchvision:ssd300_vgg16", "--weights", "DEFAULT"],
            {},
            "it is a detector, which hfc-probe detect measures",
        ),
        (
            ["--model", "torchvision:resnet18", "--weights", "DEFAULT", "--classes", "10"],
            {},
            "got it with published weights",
        ),
    ],
)
def test_options_that_would_do_nothing_and_what_cannot_be_measured(
    audit, options, changed, sentence
):
    result = audit(*options, **changed)
    assert result.exit_code == 2, result.output
    assert sentence in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_the_default_size_is_told():
    for command in ("audit", "demo"):
        said = " ".join(CliRunner().invoke(main, [command, "--help"]).output.split())
        assert "[default: the" in said.partition("--size")[2][:250]


def test_a_folder_gives_the_numbers_of_the_same_images_in_a_file(cifar_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with np.load(cifar_path / "test.npz") as archive:
        images, labels = archive["images"][:64], archive["labels"][:64]
    # In the order in which the folder has them, since the last digit depends on the batches.
    order = np.argsort(labels, kind="stable")
    np.savez("some.npz", images=images[order], labels=labels[order])
    for k in order:
        place = Path("photos", CIFAR[labels[k]])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[k].transpose(1, 2, 0)).save(place / f"{k:03}.png")
    found = []
    for data, options in (("npz:some.npz", []), ("folder:photos", ["--size", "32"])):
        result = CliRunner().invoke(
            main,
            [
                *("audit", "--model", f"{ROOT / 'examples' / 'cifar_resnet.py'}:resnet20"),
                *("--weights", str(cifar_path / "resnet20.pth"), "--normalize", "imagenet"),
                *("--radii", "4,12", "--data", data, "--out", "out", *options),
            ],
        )
        assert result.exit_code == 0, result.output
        assert "Caution" not in result.output
        found.append(json.loads(Path("out/frequency_accuracy.json").read_text())["scalars"])
    assert found[0] == found[1]
    assert found[0]["hfc_accuracy/original"] > 0.85
