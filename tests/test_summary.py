"""Results in words: conditional on their intervals."""

import numpy as np
import pytest

from hfc_probe.measurements import FrequencyAccuracyResult


def result(low, high, clean=95, n=100):
    radii = (4, 8, 12)[: len(low)]
    counts = {"original": [clean], "lfc": low, "hfc": high}
    return FrequencyAccuracyResult(
        settings={"hfc_background": "mean", "units": "cycles", "closed": True},
        samples=n,
        radii=np.array(radii, dtype=float),
        topk=(1,),
        counts={k: np.array(v)[:, None, None] for k, v in counts.items()},
        agreement={},
        class_counts=np.array([n]),
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        ((90, 92, 95), (10, 10, 10), "relies on low frequencies: frequencies up to 4"),
        ((10, 10, 10), (94, 90, 85), "relies on high frequencies: frequencies up to 12"),
        ((10, 40, 90), (85, 50, 10), "most on frequencies between 4 and 12"),
        ((10, 90, 95), (85, 10, 10), "most on frequencies between 4 and 8"),
        ((90, 94, 95), (92, 93, 94), "Low or high frequencies alone are enough"),
        ((10, 12, 15), (12, 13, 14), "Neither low nor high frequencies alone are enough"),
        ((90, 10, 90), (10, 90, 10), "low and high frequencies in turn"),
        ((44, 50, 52), (44, 42, 44), "Neither low nor high frequencies alone are enough"),
        ((80, 70, 80), (70, 75, 70), "do not clearly differ"),
    ],
)
def test_what_the_numbers_say(low, high, words):
    sentence = result(low, high).sentence()
    assert words in sentence
    assert sentence.endswith("original images give 95.0 % (HFC on mean background).")


def test_a_difference_within_the_intervals_is_not_called_one():
    few = result((6, 6, 6), (9, 9, 9), clean=9, n=10)
    many = result((600, 600, 600), (900, 900, 900), clean=900, n=1000)
    assert "relies on" not in few.sentence()
    assert "relies on high" in many.sentence()
