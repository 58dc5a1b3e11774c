"""What the tab asks for, read through TensorBoard's data provider."""

from __future__ import annotations

import json
import logging
import math
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tensorboard import errors
from tensorboard.compat.proto import types_pb2
from tensorboard.data import provider
from tensorboard.util import tensor_util

from .metadata import IMAGES, PLUGIN_NAME, PREFIX, SCALARS, Content, ContentError, parse

logger = logging.getLogger(__name__)
ALL = 1_000_000  # more points than TensorBoard ever keeps: no thinning
_PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


class _Message(NamedTuple):
    """A tensor that is not decoded yet."""

    step: int
    wall_time: float
    tensor: Any

    @property
    def numpy(self) -> NDArray[Any]:
        array: NDArray[Any] = tensor_util.make_ndarray(self.tensor)
        return array


@dataclass
class Series:
    """One array over the steps.

    Attributes:
        steps, wall_times: increasing steps, one datum each; the last one logged wins.
        values: ``(steps, *shape)`` float32.
        note: a sentence if something was left out; empty otherwise.
    """

    run: str
    tag: str
    steps: list[int] = field(default_factory=list)
    wall_times: list[float] = field(default_factory=list)
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0,), np.float32))
    note: str = ""


class Reader:
    """Reads one experiment; holds no state, so that it is never out of date."""

    def __init__(self, data_provider: Any, multiplexer: Any = None) -> None:
        self._provider = data_provider
        self._multiplexer = multiplexer  # TensorBoard's own store; its Rust server has none

    def index(self, ctx: Any, experiment: str) -> dict[str, Any]:
        """Runs with their arrays, scalars and pictures, and what of it cannot be used.

        Equal metadata are sent once: ``tensors[run][tag]`` is (number of the content, largest
        step, latest wall time).
        """
        runs = self._provider.list_runs(ctx, experiment_id=experiment)
        listed = self._tensors(ctx, experiment)
        contents: dict[str, int] = {}
        tensors: dict[str, dict[str, tuple[int, int, float]]] = {}
        problems: list[dict[str, str]] = []
        for run, tags in sorted(listed.items()):
            for tag, series in sorted(tags.items()):
                try:
                    text = json.dumps(parse(series.plugin_content).plain(), allow_nan=False)
                except (ContentError, ValueError) as error:
                    problems.append({"run": run, "tag": tag, "why": str(error)})
                    continue
                number = contents.setdefault(text, len(contents))
                tensors.setdefault(run, {})[tag] = (number, series.max_step, series.max_wall_time)
        scalars = self._ours(self._provider.list_scalars, ctx, experiment, SCALARS)
        images = self._ours(self._provider.list_blob_sequences, ctx, experiment, IMAGES)
        ours = {*tensors, *scalars, *images, *(problem["run"] for problem in problems)}
        return {
            "runs": [
                {"name": run.run_name, "start": run.start_time}
                for run in sorted(runs, key=lambda run: str(run.run_name))
                if run.run_name in ours
            ],
            "other_runs": sum(run.run_name not in ours for run in runs),
            "contents": [json.loads(text) for text in contents],
            "tensors": tensors,
            "scalars": scalars,
            "images": images,
            "problems": problems,
        }

    def has_scalars_or_pictures(self, ctx: Any, experiment: str) -> bool:
        """Whether a run has any; those of writers that write no tensors have only them."""
        return bool(
            self._ours(self._provider.list_scalars, ctx, experiment, SCALARS)
            or self._ours(self._provider.list_blob_sequences, ctx, experiment, IMAGES)
        )

    def tensors(
        self,
        ctx: Any,
        experiment: str,
        runs: Sequence[str],
        tags: Sequence[str],
        steps: Iterable[int] | None = None,
    ) -> list[Series]:
        """Every array of those runs and tags that is there, at all steps or some.

        Data of another shape than the metadata promise are left out, and the note says so.
        """
        wanted = provider.RunTagFilter(runs=runs, tags=tags)
        listed = self._tensors(ctx, experiment, wanted)
        pairs = [(run, tag) for run, found in listed.items() for tag in found]
        chosen = None if steps is None else frozenset(steps)
        try:
            read = self._undecoded(experiment, wanted, pairs, chosen)
            if read is None:
                read = self._read(ctx, experiment, wanted)
        except errors.PublicError:
            raise
        except Exception:  # one damaged tensor must not hide the others
            logger.debug("reading one by one", exc_info=True)
            read = None
        out = []
        for run, tag in sorted(pairs):
            try:
                content = parse(listed[run][tag].plugin_content)
                if read is None:
                    one = provider.RunTagFilter(runs=[run], tags=[tag])
                    data = self._read(ctx, experiment, one)[run][tag]
                else:
                    data = read.get(run, {}).pop(tag, [])  # one copy of each at a time
                out.append(_series(run, tag, content, data, chosen))
            except ContentError as error:
                out.append(Series(run, tag, note=f"{run}: {tag} is left out: {error}"))
            except errors.PublicError:
                raise
            except Exception as error:
                logger.warning("%s of run %s cannot be read: %s", tag, run, error)
                out.append(Series(run, tag, note=f"{run}: {tag} is damaged and cannot be read"))
        return out

    def scalars(
        self, ctx: Any, experiment: str, runs: Sequence[str], tags: Sequence[str]
    ) -> dict[str, dict[str, dict[str, list[float | None]]]]:
        """Scalar series as JSON: NaN and infinity become null."""
        wanted = provider.RunTagFilter(
            runs=runs, tags=[tag for tag in tags if tag.startswith(PREFIX)]
        )
        read = self._provider.read_scalars(
            ctx,
            experiment_id=experiment,
            plugin_name=SCALARS,
            downsample=ALL,
            run_tag_filter=wanted,
        )
        return {
            run: {
                tag: {
                    "steps": [datum.step for datum in data],
                    "wall_times": [datum.wall_time for datum in data],
                    "values": [
                        float(datum.value) if np.isfinite(datum.value) else None for datum in data
                    ],
                }
                for tag, data in tags.items()
            }
            for run, tags in read.items()
        }

    def images(self, ctx: Any, experiment: str, run: str, tag: str) -> list[dict[str, Any]]:
        """Keys of the pictures of one tag, step by step."""
        if not tag.startswith(PREFIX):
            return []
        read = self._provider.read_blob_sequences(
            ctx,
            experiment_id=experiment,
            plugin_name=IMAGES,
            downsample=ALL,
            run_tag_filter=provider.RunTagFilter(runs=[run], tags=[tag]),
        )
        return [
            {
                "step": datum.step,
                "wall_time": datum.wall_time,
                "keys": [value.blob_key for value in datum.values[2:]],  # width, height come first
            }
            for datum in read.get(run, {}).get(tag, [])
        ]

    def image(self, ctx: Any, key: str) -> tuple[bytes, str]:
        """A picture and its media type.

        Raises:
            errors.NotFoundError: no picture under that key.
            errors.InvalidArgumentError: not a key, or something other than PNG or JPEG.
        """
        try:
            blob = self._provider.read_blob(ctx, blob_key=key)
        except errors.PublicError:
            raise
        except Exception as error:
            raise errors.InvalidArgumentError("expected the key of a picture") from error
        for start, kind in _PICTURES.items():
            if isinstance(blob, bytes) and blob.startswith(start):
                return blob, kind
        raise errors.InvalidArgumentError("expected a PNG or JPEG picture under this key")

    def _undecoded(
        self,
        experiment: str,
        wanted: Any,
        pairs: Sequence[tuple[str, str]],
        steps: frozenset[int] | None,
    ) -> dict[str, dict[str, list[_Message]]] | None:
        """Series as TensorBoard keeps them; its data provider decodes each tensor by itself.

        That takes most of the time of a long series. None if neither of its two stores is there.
        """
        if not pairs:
            return {}
        read: dict[str, dict[str, list[_Message]]] = {run: {} for run, _ in pairs}
        if self._multiplexer is not None:
            for run, tag in pairs:
                read[run][tag] = [
                    _Message(event.step, event.wall_time, event.tensor_proto)
                    for event in self._multiplexer.Tensors(run, tag)
                    if steps is None or event.step in steps
                ]
            return read
        stub = getattr(self._provider, "_stub", None)  # no public way: it may go away
        if stub is None:
            return None
        try:
            from tensorboard.data.proto import data_provider_pb2

            request = data_provider_pb2.ReadTensorsRequest(experiment_id=experiment)
            request.plugin_filter.plugin_name = PLUGIN_NAME
            request.run_tag_filter.runs.names[:] = sorted(wanted.runs)
            request.run_tag_filter.tags.names[:] = sorted(wanted.tags)
            request.downsample.num_points = ALL
            for run in stub.ReadTensors(request).runs:
                for tag in run.tags:
                    found = zip(tag.data.step, tag.data.wall_time, tag.data.value, strict=True)
                    read[run.run_name][tag.tag_name] = [_Message(*one) for one in found]
        except Exception:  # another version, or an error that the provider puts into words
            logger.debug("read by the data provider", exc_info=True)
            return None
        return read

    def _tensors(self, ctx: Any, experiment: str, wanted: Any = None) -> Any:
        return self._provider.list_tensors(
            ctx, experiment_id=experiment, plugin_name=PLUGIN_NAME, run_tag_filter=wanted
        )

    def _read(self, ctx: Any, experiment: str, wanted: Any) -> Any:
        return self._provider.read_tensors(
            ctx,
            experiment_id=experiment,
            plugin_name=PLUGIN_NAME,
            downsample=ALL,
            run_tag_filter=wanted,
        )

    @staticmethod
    def _ours(
        listing: Callable[..., Any], ctx: Any, experiment: str, plugin: str
    ) -> dict[str, dict[str, tuple[int, float]]]:
        """Largest step and latest wall time by run and tag, of tags that hfc_probe writes."""
        listed = listing(ctx, experiment_id=experiment, plugin_name=plugin)
        found = {
            run: {
                tag: (series.max_step, series.max_wall_time)
                for tag, series in sorted(tags.items())
                if tag.startswith(PREFIX)
            }
            for run, tags in listed.items()
        }
        return {run: tags for run, tags in found.items() if tags}


def _are_messages(data: Sequence[Any]) -> bool:
    return bool(data) and isinstance(data[0], _Message)


def _stacked(tensors: Sequence[Any]) -> NDArray[np.float32] | None:
    """All of a series in one pass; None unless all are float32 of one shape."""
    first = tensors[0]
    shape = [dimension.size for dimension in first.tensor_shape.dim]
    if any(t.dtype != types_pb2.DT_FLOAT or t.tensor_shape != first.tensor_shape for t in tensors):
        return None
    parts = [tensor.tensor_content for tensor in tensors]
    size = 4 * math.prod(shape)
    if size and all(len(part) == size for part in parts):
        return np.frombuffer(b"".join(parts), "<f4").reshape(len(parts), *shape)
    values = [tensor.float_val for tensor in tensors]  # of single numbers
    if size == 4 and not any(parts) and all(len(value) == 1 for value in values):
        return np.array([value[0] for value in values], np.float32).reshape(len(parts), *shape)
    return None


def _series(
    run: str, tag: str, content: Content, data: Sequence[Any], chosen: frozenset[int] | None
) -> Series:
    """Data of one tag as one array; what does not fit the metadata or the last datum is out."""
    stacked = _stacked([datum.tensor for datum in data]) if _are_messages(data) else None
    if stacked is not None and content.mismatch(stacked.shape[1:]) is None:
        wanted = (k for k, datum in enumerate(data) if chosen is None or datum.step in chosen)
        rows = {data[k].step: k for k in sorted(wanted, key=lambda k: data[k].wall_time)}
        places = [rows[step] for step in sorted(rows)]
        times = [data[k].wall_time for k in places]
        return Series(run, tag, sorted(rows), times, stacked[places])
    kept: dict[int, tuple[float, NDArray[np.float32]]] = {}
    why, left_out = "", 0
    for datum in sorted(data, key=lambda datum: datum.wall_time):
        array = np.asarray(datum.numpy)
        if array.dtype.kind not in "fiub":
            problem: str | None = "not numbers"
        else:
            problem = content.mismatch(array.shape)
        if problem is not None:
            why, left_out = problem, left_out + 1
        elif chosen is None or int(datum.step) in chosen:
            kept[int(datum.step)] = (float(datum.wall_time), array.astype(np.float32, copy=False))
    if kept:
        shape = kept[max(kept)][1].shape
        others = [step for step, (_, array) in kept.items() if array.shape != shape]
        for step in others:
            why, left_out = (
                f"another shape than the latest, {'×'.join(map(str, shape))}",
                (left_out + 1),
            )
            del kept[step]
    note = ""
    if left_out:
        steps = "step is" if left_out == 1 else "steps are"
        note = f"{run}: {left_out} of {len(data)} {steps} left out of {tag}: {why}"
    order = sorted(kept)
    values = np.stack([kept[step][1] for step in order]) if order else np.zeros((0,), np.float32)
    return Series(run, tag, order, [kept[step][0] for step in order], values, note)


def pack(series: Iterable[Series]) -> bytes:
    """Arrays as bytes: length of the header (uint32), JSON header, then float32 values.

    Everything is little endian; the values start at a multiple of 4. The header lists
    ``run, tag, steps, wall_times, shape, note`` and ``offset``, counted in values, of each.
    """
    items: list[dict[str, Any]] = []
    parts: list[memoryview] = []
    offset = 0
    for one in series:
        items.append(
            {
                "run": one.run,
                "tag": one.tag,
                "steps": one.steps,
                "wall_times": one.wall_times,
                "shape": list(one.values.shape[1:]),
                "note": one.note,
                "offset": offset,
            }
        )
        parts.append(np.ascontiguousarray(one.values, "<f4").reshape(-1).data)
        offset += one.values.size
    header = json.dumps({"series": items}).encode()
    header += b" " * (-len(header) % 4)
    return b"".join([struct.pack("<I", len(header)), header, *parts])
