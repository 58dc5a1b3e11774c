"""The frequency maths against closed forms and independent slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfc_probe import InputError, fourier

SIZES = [(8, 8), (7, 7), (8, 5), (5, 8), (32, 32), (9, 16), (1, 6), (6, 1)]


def images(height, width, dtype=torch.float64, n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, height, width, generator=generator, dtype=torch.float64).to(dtype)


def dft_split(x: torch.Tensor, radius: float, closed: bool, units: str) -> np.ndarray:
    """LFC by a full complex DFT with an explicit mask, the spectrum shifted to the middle."""
    x = x.double().numpy()
    height, width = x.shape[-2:]
    spectrum = np.fft.fftshift(np.fft.fft2(x), axes=(-2, -1))
    mask = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            i, j = row - height // 2, column - width // 2
            if units == "nyquist":
                i, j = i / (height / 2), j / (width / 2)
            d = math.hypot(i, j)
            mask[row, column] = d <= radius if closed else d < radius
    return np.fft.ifft2(np.fft.ifftshift(spectrum * mask, axes=(-2, -1))).real


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    ("radius", "units"),
    [(0, "cycles"), (1, "cycles"), (2.5, "cycles"), (4, "cycles"), (0.6, "nyquist")],
)
def test_split_equals_a_full_dft_with_an_explicit_mask(size, radius, closed, units):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        x = images(*size, dtype)
        low, high = fourier.split(x, radius, closed=closed, units=units)
        assert low.dtype == dtype
        np.testing.assert_allclose(low, dft_split(x, radius, closed, units), atol=tolerance)
        torch.testing.assert_close(low + high, x, atol=tolerance, rtol=0)


def authors_split(image: np.ndarray, radius: float) -> np.ndarray:
    """The definition of the authors' code, per channel: centre n / 2, distance below r."""
    n = image.shape[0]
    spectrum = np.fft.fftshift(np.fft.fft2(image))
    for row in range(n):
        for column in range(n):
            if math.sqrt((row - n / 2) ** 2 + (column - n / 2) ** 2) >= radius:
                spectrum[row, column] = 0
    return np.real(np.fft.ifft2(np.fft.ifftshift(spectrum)))


@pytest.mark.parametrize("radius", [4, 8, 12, 16])
def test_open_split_equals_the_authors_definition_for_even_sizes(radius):
    x = images(32, 32, n=1)
    low, _ = fourier.split(x, radius, closed=False)
    for channel in range(3):
        np.testing.assert_allclose(
            low[0, channel], authors_split(x[0, channel].numpy(), radius), atol=1e-10
        )


def test_closed_and_open_differ_exactly_by_the_circle():
    x = images(32, 32, n=1)
    circle = fourier.split(x, 5)[0] - fourier.split(x, 5, closed=False)[0]
    power = torch.fft.fftshift(torch.fft.fft2(circle), dim=(-2, -1)).abs()
    on_it = fourier.distance(32, 32) == 5
    assert int(on_it.sum()) == 12  # 5² = 0² + 5² = 3² + 4²
    assert power[..., ~on_it].max() < 1e-10
    assert power[..., on_it].min() > 1e-6


def test_a_radius_that_is_meant_to_lie_on_the_circle_does_whatever_its_rounding():
    x = images(20, 20, n=1)
    for radius in (
        math.sqrt(41),
        math.nextafter(math.sqrt(41), 0),
        math.nextafter(math.sqrt(41), 9),
    ):
        low, _ = fourier.split(x, radius)
        power = torch.fft.fft2(low).abs()
        assert float(power[0, 0, 4, 5]) > 1e-6
        low, _ = fourier.split(x, radius, closed=False)
        assert float(torch.fft.fft2(low).abs()[0, 0, 4, 5]) < 1e-9
    low, _ = fourier.split(x, 1.0, units="nyquist")  # (6, 8) of 10 is at 1, up to rounding
    assert float(torch.fft.fft2(low).abs()[0, 0, 6, 8]) > 1e-6


def test_radius_zero_keeps_the_mean_and_a_radius_beyond_the_corner_keeps_everything():
    x = images(9, 12, torch.float32)
    low, high = fourier.split(x, 0)
    torch.testing.assert_close(low, x.mean((2, 3), keepdim=True).expand_as(x))
    assert float(high.mean((2, 3)).abs().max()) < 1e-6
    for radius in (fourier.corner(9, 12), 1e9, math.inf):
        low, high = fourier.split(x, radius)
        assert torch.equal(low, x)
        assert not high.any()


def test_bands_equal_split_radius_by_radius():
    x = images(16, 11, torch.float32)
    radii = (0, 2, 5.5, 40)
    for radius, pair in zip(radii, fourier.bands(x, radii), strict=True):
        for ours, alone in zip(pair, fourier.split(x, radius), strict=True):
            assert torch.equal(ours, alone)


def test_a_radius_in_cycles_does_not_depend_on_the_size_of_the_same_picture():
    def wave(size):
        y = torch.arange(size, dtype=torch.float64) / size
        return torch.cos(2 * math.pi * 5 * y)[None, :].expand(size, size)[None, None]

    for size in (16, 32, 33):
        low, high = fourier.split(wave(size), 5)
        torch.testing.assert_close(low, wave(size))
        low, high = fourier.split(wave(size), 4.99)
        torch.testing.assert_close(high, wave(size))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_split_in_float32(dtype):
    low, high = fourier.split(images(8, 8, dtype), 2)
    assert low.dtype == high.dtype == torch.float32


def test_autocast_does_not_reach_the_transforms():
    x = images(16, 16, torch.float32)
    plain = fourier.split(x, 3)[0], fourier.svd_split(x, 3)[0]
    with torch.autocast("cpu", torch.bfloat16):
        cast = fourier.split(x, 3)[0], fourier.svd_split(x, 3)[0]
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    radius=st.floats(0, 60),
    closed=st.booleans(),
    units=st.sampled_from(["cycles", "nyquist"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_split_is_an_orthogonal_projection(height, width, radius, closed, units, dtype):
    x = images(height, width, dtype, n=1, seed=height * 41 + width)
    low, high = fourier.split(x, radius, closed=closed, units=units)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(low + high, x, atol=tolerance, rtol=0)
    again, rest = fourier.split(low, radius, closed=closed, units=units)
    torch.testing.assert_close(again, low, atol=tolerance, rtol=0)  # idempotent
    assert float(rest.abs().max()) <= tolerance
    energy = float((x**2).sum())  # Parseval: the parts are orthogonal
    parts = float((low**2).sum() + (high**2).sum())
    assert parts == pytest.approx(energy, rel=tolerance)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(2, 33), width=st.integers(2, 33), data=st.data())
def test_basis_has_unit_norm_and_one_pair_of_frequencies(height, width, data):
    i = data.draw(st.integers(-(height // 2), height // 2))
    j = data.draw(st.integers(-(width // 2), width // 2))
    u = fourier.basis(i, j, height, width, dtype=torch.float64)
    assert float((u**2).sum()) == pytest.approx(1, abs=1e-12)
    power = torch.fft.fft2(u).abs() ** 2
    cells = {(i % height, j % width), (-i % height, -j % width)}
    inside = sum(float(power[cell]) for cell in cells)
    assert inside == pytest.approx(float(power.sum()), rel=1e-12)
    assert float(u[0, 0]) == pytest.approx(float(u.max()))  # cosine phase


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (4, 6), (5, 8), (32, 32)])
def test_half_plane_names_every_pair_once(size):
    height, width = size
    chosen = fourier.half_plane(height, width)
    covered = [
        cell for i, j in chosen for cell in {(i % height, j % width), (-i % height, -j % width)}
    ]
    assert len(covered) == len(set(covered)) == height * width


def test_basis_images_of_the_half_plane_are_orthonormal():
    stack = torch.stack(
        [
            fourier.basis(i, j, 6, 5, dtype=torch.float64).flatten()
            for i, j in fourier.half_plane(6, 5)
        ]
    )
    torch.testing.assert_close(stack @ stack.T, torch.eye(len(stack), dtype=torch.float64))


@pytest.mark.parametrize("over_channels", [False, True])
def test_recombine_against_numpy(over_channels):
    a, p = images(9, 8, seed=1), images(9, 8, seed=2)
    axes = (-3, -2, -1) if over_channels else (-2, -1)
    expected = np.fft.ifftn(
        np.abs(np.fft.fftn(a.numpy(), axes=axes))
        * np.exp(1j * np.angle(np.fft.fftn(p.numpy(), axes=axes))),
        axes=axes,
    ).real
    ours = fourier.recombine(a, p, over_channels=over_channels)
    np.testing.assert_allclose(ours, expected, atol=1e-10)
    torch.testing.assert_close(fourier.recombine(a, a, over_channels=over_channels), a)


def test_radial_profile_of_a_ring_is_in_its_bin_alone():
    distance = fourier.distance(33, 21)
    ring = (distance.round() == 7).double()
    profile = fourier.radial_profile(ring)
    assert profile[7] == 1
    assert profile.nansum() == 1
    assert len(profile) == 1 + round(fourier.corner(33, 21))


def test_radial_profile_leaves_out_unknown_cells():
    spectrum = fourier.distance(16, 16)
    spectrum[8, 8] = math.nan
    spectrum[8, 11] = math.nan
    profile = fourier.radial_profile(spectrum)
    assert profile[0].isnan()
    assert float(profile[3]) == pytest.approx(3, abs=0.2)


def test_svd_split_is_the_best_approximation_and_sums_to_the_image():
    x = images(12, 9)
    leading, trailing = fourier.svd_split(x, 4)
    torch.testing.assert_close(leading + trailing, x)
    values = np.linalg.svd(x.numpy(), compute_uv=False)
    np.testing.assert_allclose((trailing**2).sum((2, 3)), (values[..., 4:] ** 2).sum(-1), rtol=1e-9)


@pytest.mark.parametrize("radius", [-1, math.nan, "8", None, True, -1e-9])
def test_a_radius_that_is_none_is_refused_in_a_sentence(radius):
    with pytest.raises(InputError, match="radius: expected a number of at least 0"):
        fourier.split(torch.rand(1, 1, 4, 4), radius)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: fourier.split(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 1), r"float\(\) / 255"),
        (lambda: fourier.split(torch.zeros(4), 1), r"expected shape \(\.\.\., H, W\)"),
        (lambda: fourier.split(np.zeros((4, 4)), 1), "expected a torch.Tensor, got ndarray"),
        (lambda: fourier.split(torch.zeros(4, 4), 1, units="hertz"), '"cycles" or "nyquist"'),
        (lambda: fourier.basis(5, 0, 8, 8), r"\|i\| <= 4"),
        (lambda: fourier.recombine(torch.rand(3, 4, 4), torch.rand(3, 4, 5)), "one shape"),
        (
            lambda: fourier.svd_split(torch.rand(4, 4), 5),
            "rank: expected a whole number from 0 to 4",
        ),
        (lambda: fourier.radial_profile(torch.rand(4)), "expected"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
