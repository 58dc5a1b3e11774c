"""Every format is read to [0, 1] and upright, or refused; torchvision's reader is the referee."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image, read_file

from hfc_probe.detection import BrokenImageError, CocoImages, DetectionAudit
from hfc_probe.detection.pictures import check_depth, read_picture

from ..conftest import needs_coco

PATTERN = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def read(path):
    return read_picture(path, path.name)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_eight_bits_as_torchvision_reads_them(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.fromarray(PATTERN).convert(mode).save(path)
    theirs = decode_image(read_file(str(path)), ImageReadMode.RGB).float() / 255
    assert torch.equal(read(path), theirs)
    check_depth(path)


def test_cmyk_as_torchvision_reads_it(tmp_path):
    path = tmp_path / "a.jpg"
    smooth = Image.fromarray(PATTERN).resize((3, 2)).resize((40, 24), Image.Resampling.BILINEAR)
    smooth.convert("CMYK").save(path, quality=95)
    theirs = decode_image(read_file(str(path)), ImageReadMode.RGB).float() / 255
    torch.testing.assert_close(read(path), theirs, rtol=0, atol=0.02)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_grey(tmp_path, suffix):
    values = np.linspace(0, 65535, 24 * 40).round().astype(np.uint16).reshape(24, 40)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(values).save(path)
    expected = torch.from_numpy(values / 65535).float().expand(3, 24, 40)
    torch.testing.assert_close(read(path), expected, rtol=0, atol=1e-7)
    with pytest.raises(BrokenImageError, match=r"8 bits .* mode I;16, which detectron2"):
        check_depth(path)


def test_sixteen_bits_grey_as_older_pillow_opens_them(tmp_path, monkeypatch):
    """As integers of 32 bits."""
    from PIL import PngImagePlugin

    values = np.linspace(0, 65535, 24 * 40).round().astype(np.uint16).reshape(24, 40)
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    monkeypatch.setitem(PngImagePlugin._MODES, (16, 0), ("I", "I;16B"))
    assert Image.open(path).mode == "I"
    expected = torch.from_numpy(values / 65535).float().expand(3, 24, 40)
    torch.testing.assert_close(read(path), expected, rtol=0, atol=1e-7)


def test_sixteen_bits_in_colour(tmp_path):
    """A PNG written by hand: Pillow writes none."""
    values = np.random.default_rng(1).integers(0, 65536, (24, 40, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", 40, 24, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    expected = torch.from_numpy(values / 65535).float().permute(2, 0, 1)
    torch.testing.assert_close(read(path), expected, rtol=0, atol=1 / 255)


def test_floats_are_read_in_the_unit_range_and_refused_beyond(tmp_path):
    values = np.linspace(0, 1, 24 * 40, dtype=np.float32).reshape(24, 40)
    path = tmp_path / "a.tif"
    Image.fromarray(values).save(path)
    assert torch.equal(read(path), torch.from_numpy(values).expand(3, 24, 40))
    Image.fromarray(values * 255).save(path)
    with pytest.raises(BrokenImageError, match=r"mode F with values from 0 to 255; convert"):
        read(path)
    Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)).save(path)
    with pytest.raises(BrokenImageError, match=r"mode I with values from 70000 to 70000"):
        read(path)


# How the stored pixels arise from upright ones: the inverse of what a reader does.
STORED = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("shape", ["wide", "square"])
def test_every_exif_orientation_is_undone(tmp_path, orientation, shape):
    upright = PATTERN if shape == "wide" else PATTERN[:24, :24]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    stored = np.ascontiguousarray(STORED[orientation](upright))
    Image.fromarray(stored).save(path, exif=exif)
    expected = torch.from_numpy(upright).permute(2, 0, 1) / 255
    assert torch.equal(read(path), expected)
    theirs = (
        decode_image(read_file(str(path)), ImageReadMode.RGB, apply_exif_orientation=True) / 255
    )
    assert torch.equal(theirs, expected)


def test_annotations_of_turned_pixels_are_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PATTERN).save(tmp_path / "a.png", exif=exif)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 24}],
        "annotations": [],
        "categories": [{"id": 1}],
    }
    with pytest.raises(BrokenImageError, match=r"got 24×40 after turning .* orientation 6\); if"):
        CocoImages(tmp_path, content).load(1)


@needs_coco
def test_how_many_images_were_turned_is_said(tmp_path):
    """Orientation 3 keeps the size, so that annotations of the stored pixels are not refused."""
    for k, orientation in enumerate((1, 3, 6)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = np.ascontiguousarray(STORED[orientation](PATTERN))
        Image.fromarray(stored).save(tmp_path / f"{k}.png", exif=exif)
    Image.fromarray(PATTERN).save(tmp_path / "3.png")
    content = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 24} for k in range(4)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1}],
    }
    audit = DetectionAudit(radii=(4,), bootstrap=0)

    def detect(images):
        return [([[0.0, 0.0, 9.0, 9.0]], [0.9], [1]) for _ in images]

    result = audit.measure(detect, CocoImages(tmp_path, content))
    assert "Note: 2 images were turned upright by EXIF; if the annotations" in str(result)
    assert "turned" not in str(audit.measure(detect, CocoImages(tmp_path, content), limit=1))
