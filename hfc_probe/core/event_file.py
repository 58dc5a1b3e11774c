"""Plain values into an event file, by the tags of the architecture and as tensors for the tab."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..version import __version__
from .labels import Label
from .loggers import writers

PLUGIN = "hfc"
CONTENT_VERSION = 1
_SERIES = 5  # a custom-scalars chart with more is unreadable


def log(result: Any, writer: Any, step: int, *, figure: bool = False) -> None:
    """Write a result's scalars, histograms, pictures and tensors.

    The HFC tab draws from the numbers, so no figure is made unless it is asked for.

    Args:
        result: any result.
        writer: any logger that :func:`hfc_probe.core.loggers.writers` knows, or several. Of an
            object with ``add_scalar``, ``add_histogram``, ``add_figure`` and ``add_image`` are
            used if it has them; tensors go into torch's own ``SummaryWriter``.
        step: of the training.
        figure: write the result's figure too, as the image ``hfc_<measurement>/figure``.

    Raises:
        InputError: something that is no logger.
    """
    for one in writers(writer):
        _log(result, one, step, figure=figure)


def _log(result: Any, writer: Any, step: int, *, figure: bool) -> None:
    for tag, value in result.scalars().items():
        writer.add_scalar(tag, value, step)
    if hasattr(writer, "add_histogram"):
        for tag, values in result.histograms().items():
            writer.add_histogram(tag, values, step)
    if hasattr(writer, "add_image") or hasattr(writer, "add_figure"):
        pictures = result.images()
        if figure:
            pictures[f"hfc_{result.name}/figure"] = result.figure()
        for tag, picture in pictures.items():
            _log_picture(writer, tag, picture, step)
    if hasattr(writer, "add_result"):
        writer.add_result(result.name, result, step)
    _log_tensors(result, writer, step)
    flush(writer)


def prepare(opened: Sequence[Any]) -> None:
    """Import what logging needs, so that the first result does not wait for it in training."""
    if opened:
        from torch.utils import tensorboard  # noqa: F401
    if any(hasattr(writer, "add_image") or hasattr(writer, "add_figure") for writer in opened):
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401


def flush(writer: Any) -> None:
    """Bring what was logged to the disk, if the writer knows how."""
    if hasattr(writer, "flush"):
        writer.flush()


def log_text(writer: Any, tag: str, text: str, step: int) -> None:
    """Markdown under exactly this tag (``SummaryWriter.add_text`` appends to it)."""
    file_writer = _file_writer(writer)
    if file_writer is None:
        if hasattr(writer, "add_text"):
            writer.add_text(tag, text, step)
        return
    from tensorboard.plugins.text.summary_v2 import text_pb

    file_writer.add_summary(text_pb(tag, text), step)


def as_markdown(text: str) -> str:
    r"""Text that Markdown shows as it is: TensorBoard would make a picture of ``<img …>``.

    >>> as_markdown("layer_1 <b>")
    'layer\\_1 &lt;b&gt;'
    """
    shown = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]])", r"\\\1", shown)


def log_layout(writer: Any, labels: Mapping[str, Label]) -> bool:
    """The custom-scalars layout: LFC and HFC by radius, and one against the other.

    Args:
        labels: of a result's scalars; nothing is written unless they are accuracies on all three.

    Returns:
        Whether they are.
    """
    kinds = [one.quantity for one in labels.values() if one.part == "original"]
    if not kinds or not kinds[0].endswith("accuracy"):
        return False

    def tags(part: str) -> list[str]:
        own = (part, kinds[0])
        return [tag for tag, one in labels.items() if (one.part, one.quantity) == own]

    low, high = _spread(tags("lfc")), _spread(tags("hfc"))
    if not low or not high:
        return False
    if hasattr(writer, "add_custom_scalars"):
        pair = sorted({0, len(low) // 2})
        against = [*tags("original"), *(curve[k] for k in pair for curve in (low, high))]
        charts = {
            "LFC by radius": ["Multiline", low],
            "HFC by radius": ["Multiline", high],
            "LFC against HFC": ["Multiline", against],
        }
        writer.add_custom_scalars({"hfc_probe": charts})
    return True


def _spread(tags: list[str]) -> list[str]:
    """At most five of the tags, evenly spaced, the first and the last among them."""
    if len(tags) <= _SERIES:
        return tags
    return [tags[round(k * (len(tags) - 1) / (_SERIES - 1))] for k in range(_SERIES)]


def _log_picture(writer: Any, tag: str, picture: Any, step: int) -> None:
    if not isinstance(picture, np.ndarray):
        if hasattr(writer, "add_figure"):
            writer.add_figure(tag, picture, step)
            return
        picture.canvas.draw()
        picture = np.asarray(picture.canvas.buffer_rgba())[..., :3]
    if hasattr(writer, "add_image"):
        layout = "HW" if picture.ndim == 2 else "HWC"
        writer.add_image(tag, picture, step, dataformats=layout)


def _log_tensors(result: Any, writer: Any, step: int) -> None:
    """Arrays as tensor summaries of plugin ``hfc``, tag ``<group>/<array>``.

    Scalars with a label go into ``<group>/scalars``, each with its interval (NaN: none). The
    metadata's JSON holds ``settings`` and ``provenance`` beside axes and unit. Outcomes by
    image are packed into bytes, ``<group>/per_image``, a row for each tag.
    """
    file_writer = _file_writer(writer)
    if file_writer is None:
        return
    from ..ground.files import plain

    arrays, axes = result.tensors(), result.axes()
    labels, outcomes = result.labels(), result.per_image()
    if labels:
        arrays["scalars"] = _with_bounds(labels, result.scalars(), result.intervals())
        bounds = {"name": "value", "values": ["value", "lower", "upper"]}
        axes["scalars"] = {"unit": "", "axes": [_tag_axis(labels, labels), bounds]}
    if outcomes:
        tags = _tag_axis(outcomes, labels)
        packed = {"name": "image", "count": len(next(iter(outcomes.values()))), "packed": "bits"}
        arrays["per_image"] = np.packbits(np.stack(list(outcomes.values())), axis=1)
        axes["per_image"] = {"unit": "8 images a byte, 1 is right", "axes": [tags, packed]}
    # TensorBoard keeps the metadata of an array's first step: only what lasts belongs there.
    origin = {
        "samples": result.samples,
        "settings": plain(dict(result.settings)),
        "provenance": plain(lasting(result.provenance)),
    }
    values = []
    for name, described in axes.items():
        content = {"measurement": result.name, "array": name, **origin, **described}
        values.append(_tensor_value(f"{result.group}/{name}", content, arrays[name]))
    _add_values(file_writer, values, step)


def _tag_axis(tags: Iterable[str], labels: Mapping[str, Label]) -> dict[str, Any]:
    """An axis of tags with their labels, in the same order; an empty one is unknown."""
    tags = list(tags)
    said = [labels[tag].plain() if tag in labels else {} for tag in tags]
    return {"name": "tag", "values": tags, "labels": said}


def _with_bounds(
    tags: Iterable[str], scalars: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]
) -> NDArray[np.float32]:
    """``(tags, 3)`` value, lower and upper bound; NaN if there is none."""
    nan = np.nan
    rows = [(scalars.get(tag, nan), *intervals.get(tag, (nan, nan))) for tag in tags]
    return np.array(rows, dtype=np.float32)


def log_epoch(writer: Any, epoch: int, step: int) -> None:
    """How many epochs had ended at a step: what the dashboard puts under its curves."""
    file_writer = _file_writer(writer)
    if file_writer is None:
        return
    content = {"measurement": "progress", "array": "epoch", "unit": "epoch", "axes": []}
    _add_values(file_writer, [_tensor_value("progress/epoch", content, epoch)], step)


def log_restart(writer: Any, step: int) -> None:
    """Events that this directory already holds of this step and later ones are void.

    That is what ``SummaryWriter(purge_step=)`` writes, twice: TensorBoard takes the first such
    mark that it meets in a directory for the beginning.
    """
    file_writer = _file_writer(writer)
    if file_writer is None:
        return
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    for _ in range(2):
        mark = Event(step=step, session_log=SessionLog(status=SessionLog.START))
        file_writer.event_writer.add_event(mark)


def _tensor_value(tag: str, content: dict[str, Any], array: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
    from tensorboard.util.tensor_util import make_tensor_proto

    content = {"version": CONTENT_VERSION, "hfc_probe": __version__, **content}
    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(
            plugin_name=PLUGIN, content=json.dumps(content).encode()
        ),
        data_class=DATA_CLASS_TENSOR,
    )
    tensor = make_tensor_proto(np.asarray(array, dtype=np.float32))
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)


def _add_values(file_writer: Any, values: list[Any], step: int) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary

    file_writer.add_summary(Summary(value=values), step)


def _file_writer(writer: Any) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return writer._get_file_writer() if isinstance(writer, SummaryWriter) else None


# What changes from one step of a training to the next.
MOMENTARY = ("date", "step", "epoch", "wall_time", "weights", "seconds", "passes")


def lasting(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What stays the same over the steps of a run: what an array's metadata can say."""
    return {key: value for key, value in provenance.items() if key not in MOMENTARY}


def radius_tag(radius: float) -> str:
    """A radius as the last part of a tag: two digits at least, whatever else is measured.

    >>> radius_tag(8), radius_tag(128), radius_tag(0.25), radius_tag(22.627417)
    ('r08', 'r128', 'r00.25', 'r22.6274')
    """
    if not np.isfinite(radius):
        return "rinf"
    text = np.format_float_positional(radius, precision=6, fractional=False, trim="-")
    whole, dot, fraction = text.partition(".")
    return f"r{whole.zfill(2)}{dot}{fraction}"
