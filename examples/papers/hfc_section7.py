"""A detector relies on low frequencies, and finds some objects better without the high ones.

AP on the original images, on LFC(r) and on HFC(r), zero background, with 95 % intervals over
images, and the share of images whose AP is higher on LFC(r).
"""

from dataclasses import dataclass

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from hfc_probe.detection import DetectionAudit

from . import detectors
from .claims import Claim
from .figures import COLOURS, new_figure

SOURCE = "Wang et al., CVPR 2020, Section 7"
DATASET = "coco"
DIFFERS = "The paper audits a RetinaNet at r = 128 on 5,000 images of val2017 at up to 1,333 "
DIFFERS += "pixels; this is FastestDet, at 352 pixels, on 50 of them, so r = 64 is judged too. "
DIFFERS += "AP of few images is too high, so its interval is not centred on it."


@dataclass(frozen=True)
class Setting:
    detector: str = "fastestdet"
    radii: tuple[int, ...] = (32, 64, 96, 128)
    judged: tuple[int, ...] = (64, 128)
    seeds: tuple[int, ...] = (0,)


SCALES = {
    "smoke": Setting("planted", (8, 12), (8, 12)),
    "small": Setting(),
    "paper": Setting(),
}
PAPER = "35.6 %, LFC 27.5 %, HFC 10.7 % at r = 128"
CLAIMS = (
    Claim("AP falls on LFC at half the paper's radius", "lost on LFC/r0", 0, PAPER),
    Claim("AP falls on LFC at the paper's radius", "lost on LFC/r1", 0, PAPER),
    Claim("LFC is better than HFC at half the paper's radius", "LFC/r0", "HFC/r0", PAPER),
    Claim("LFC is better than HFC at the paper's radius", "LFC/r1", "HFC/r1", PAPER),
    Claim(
        "At the paper's radius at least 17 % of the images gain on LFC, half of its share",
        "gain/r1", 0.17, "1,684 of 5,000 (34 %) at r = 128",
    ),
)  # fmt: skip

load = detectors.load


def trainings(setting):
    return 0


def run(setting, data, seed, folder):
    audit = DetectionAudit(setting.radii, seed=seed)
    result = audit.measure(data.detector, data.images)
    with SummaryWriter(str(folder / "val")) as writer:
        result.log(writer, 0)
    arrays, numbers = result.arrays(), {}
    parts = ("", "_lower", "_upper")
    curves = {part: np.stack([arrays[part + p][..., 0] for p in parts], -1) for part in PARTS}
    for k, r in enumerate(setting.judged):
        row = setting.radii.index(r)
        lost = [-float(arrays[f"lfc_difference{p}"][row, 0]) for p in ("", "_upper", "_lower")]
        numbers[f"lost on LFC/r{k}"] = lost
        numbers[f"LFC/r{k}"], numbers[f"HFC/r{k}"] = (curves[p][row].tolist() for p in PARTS[1:])
        numbers[f"gain/r{k}"] = [float(arrays[f"lfc_gain_any{p}"][row]) for p in parts]
    return (
        numbers
        | {"original": curves["original"].tolist(), "radii": np.array(setting.radii)}
        | {f"curve/{part}": curve for part, curve in curves.items()}
    )


PARTS = ("original", "lfc", "hfc")


def figure(runs):
    out = new_figure(6, 4)
    axes = out.subplots()
    run = runs[0]
    value, *bounds = 100 * run["curve/original"]
    axes.axhline(value, color=COLOURS[0], ls="--", label="original")
    axes.axhspan(*bounds, color=COLOURS[0], alpha=0.1, lw=0)
    for part, colour in (("lfc", COLOURS[1]), ("hfc", COLOURS[5])):
        curve = 100 * run[f"curve/{part}"]
        axes.plot(run["radii"], curve[:, 0], "o-", color=colour, label=f"{part.upper()}(r)")
        axes.fill_between(run["radii"], *curve[:, 1:].T, color=colour, alpha=0.2, lw=0)
    axes.set_xticks(run["radii"])
    axes.set_xlabel("radius r in cycles/image")
    axes.set_ylabel("AP in %, with 95 % bootstrap intervals")
    axes.set_ylim(bottom=0)
    out.legend(frameon=False, ncols=3, loc="outside upper center")
    return out
