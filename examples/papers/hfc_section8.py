"""High frequencies are more than noise: truncated SVD finds far fewer images of Figure 2's kind.

Images that are right as they are and on the rest alone, but wrong on what holds most of the
energy. The split is at a rank (leading and trailing singular components), or at the radius whose
LFC holds the same energy. Each of the two counts at the rank at which it is largest.
"""

from dataclasses import dataclass

import numpy as np

from hfc_probe import TruncatedSVD

from .claims import Claim
from .figures import COLOURS, new_figure
from .training import Training, given_or_trained

SOURCE = "Wang et al., CVPR 2020, Section 8"
DIFFERS = "The paper says neither the rank nor how many images. HFC and the trailing components "
DIFFERS += "are fed on the images' mean."


@dataclass(frozen=True)
class Setting(Training):
    ranks: tuple[int, ...] = (2, 4, 8, 16)
    background: str = "zero"


SCALES = {
    "smoke": Setting(
        network="cnn", epochs=3, batch_size=32, learning_rate=3e-3, train_images=512,
        test_images=128, planted=(("band", "high"), ("classes", 4)), seeds=(0,),
    ),
    "small": Setting(
        network="cifar10/resnet20.pth", rescale=None, background="mean",
        seeds=(0,),
    ),
    "paper": Setting(),
}  # fmt: skip
CLAIMS = (
    Claim(
        "Fewer images are right on the trailing singular components only than on HFC only",
        "frequency", "svd", "far fewer, no number",
    ),
    Claim(
        "At most half as many (half of HFC's share against theirs)",
        "half of them", "svd", "far fewer, no number",
    ),
    Claim("Fewer also at rank 8", "at rank 8/frequency", "at rank 8/svd", "far fewer, no number"),
)  # fmt: skip


def trainings(setting):
    return 0 if setting.given else 1


def run(setting, data, seed, folder):
    measure = TruncatedSVD(setting.ranks, background=setting.background, rescale=setting.rescale)
    trained = given_or_trained(
        setting, data, seed, folder, watch={"test": data.test}, measurements=[measure]
    )
    arrays = trained.results["test/truncated_svd"].arrays()
    numbers = {}
    for name, kind in (("frequency", "hfc_only"), ("svd", "trailing_only")):
        share = np.stack([arrays[kind + part] for part in ("", "_lower", "_upper")], 1)
        numbers[name] = share[share[:, 0].argmax()].tolist()
        numbers[f"at rank 8/{name}"] = share[setting.ranks.index(8)].tolist()
        numbers[f"by rank/{name}"] = share
    numbers["half of them"] = [x / 2 for x in numbers["frequency"]]
    numbers["radii"] = arrays["radii"]
    return numbers | trained.numbers("natural")


def figure(runs):
    out = new_figure(6.5, 4)
    axes = out.subplots()
    ranks = SCALES["paper"].ranks
    for name, colour, label in (
        ("frequency", COLOURS[5], "right on HFC(r), wrong on LFC(r)"),
        ("svd", COLOURS[3], "right on trailing, wrong on leading components"),
    ):
        share = 100 * np.mean([run[f"by rank/{name}"] for run in runs], 0)
        axes.plot(share[:, 0], "o-", color=colour, label=label)
        axes.fill_between(range(len(ranks)), *share[:, 1:].T, color=colour, alpha=0.2, lw=0)
    radii = np.mean([run["radii"] for run in runs], 0)
    axes.set_xticks(
        range(len(ranks)), [f"k = {k}\nr = {r:.1f}" for k, r in zip(ranks, radii, strict=True)]
    )
    axes.set_xlabel("rank k, and the radius r of the same energy in cycles/image")
    axes.set_ylabel("share of all test images in %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return out
