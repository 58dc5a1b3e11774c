"""A network gets images right from high frequencies that a person cannot see, and only from them.

Images that are predicted right as they are and on HFC(r), but wrong on LFC(r).
"""

import numpy as np

from hfc_probe import ComponentExamples, Every
from hfc_probe.core.intervals import wilson

from .claims import Claim
from .figures import bare, new_figure
from .training import Training, train

SOURCE = "Wang et al., CVPR 2020, Figure 2"
VIEWS = ("original", "LFC", "HFC")
SCALES = {
    "smoke": Training(
        network="cnn", epochs=3, batch_size=32, learning_rate=3e-3, train_images=512,
        test_images=128, planted=(("band", "high"), ("classes", 4)), seeds=(0,),
    ),
    "small": Training(
        network="cnn", epochs=15, batch_size=100, learning_rate=2e-3, train_images=10_000,
        test_images=5000,
    ),
    "paper": Training(),
}  # fmt: skip
CLAIMS = (
    Claim(
        "More images than by chance are right on HFC(r) alone and wrong on LFC(r)",
        "high_only", "by_chance", "about 600 of 10,000 (6 %)",
    ),
    Claim(
        "They are at least 3 % of all test images, half of what the paper found",
        "high_only", 0.03, "about 600 of 10,000 (6 %)",
    ),
)  # fmt: skip


def trainings(setting):
    return 1


def run(setting, data, seed, folder):
    measure = ComponentExamples(closed=False, rescale="max", examples=8)
    trained = train(
        setting, data.train, seed, folder,
        watch={"test": data.test}, measurements={measure: Every(epochs=setting.epochs)},
    )  # fmt: skip
    result = trained.results["test/component_examples"]
    row, count = result.example_row, result.samples
    high_only = result.counts["high_only"][row]
    # Of the images that are wrong on LFC, a guess is right on one in as many as there are classes.
    by_chance = (high_only + result.counts["neither"][row]) / len(data.classes)
    numbers = {
        name: [float(k / count), *map(float, wilson(k, count))]
        for name, k in (("high_only", high_only), ("by_chance", by_chance))
    }
    words = [
        [f"{data.classes[k]} {sure:.0%}" for k, sure in zip(*pair, strict=True)]
        for pair in zip(result.example_predicted, result.example_confidence, strict=True)
    ]
    return numbers | trained.numbers("natural") | {
        "radius": [result.example_radius],
        "words": words,
        "images": result.example_images,
    }  # fmt: skip


def figure(runs):
    images, words, radius = (runs[0][key] for key in ("images", "words", "radius"))
    columns = max(len(images), 1)
    out = new_figure(1.3 * columns + 0.6, 5)
    grid = out.subplots(3, columns, squeeze=False)
    for column, (views, said) in enumerate(zip(images, words, strict=True)):
        for row, view in enumerate(views):
            axes = grid[row, column]
            gain = 0.5 / max(np.abs(view).max(), 1e-6)
            picture = np.moveaxis(0.5 + gain * view if row == 2 else view, 0, -1).clip(0, 1)
            axes.imshow(picture, cmap="gray")
            axes.set_xlabel(said[row], fontsize=8, color="firebrick" if row == 1 else "black")
    for axes in grid.flat:
        bare(axes)
    for row, view in enumerate(VIEWS):
        grid[row, 0].set_ylabel(view if row == 0 else f"{view}({radius[0]:g})")
    out.suptitle("Right on the original and on HFC, wrong on LFC")
    return out
