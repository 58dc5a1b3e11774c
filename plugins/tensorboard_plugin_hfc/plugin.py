"""The tab's routes: static files, and what it asks for as JSON or bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tensorboard import context, errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from .data import Reader, pack
from .metadata import PLUGIN_NAME

logger = logging.getLogger(__name__)
STATIC = Path(__file__).resolve().parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css"}
_SERIES_AT_ONCE = 4096  # runs × tags of one question


class HfcPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """The HFC tab."""

    plugin_name = PLUGIN_NAME

    def __init__(self, setting: Any) -> None:
        self._reader = Reader(setting.data_provider, setting.multiplexer)

    def get_plugin_apps(self) -> dict[str, Any]:
        """Routes below ``data/plugin/hfc``."""
        return {
            "/index": _answering(self._index),
            "/tensors": _answering(self._tensors),
            "/scalars": _answering(self._scalars),
            "/images": _answering(self._images),
            "/image": _answering(self._image),
            "/static/*": _answering(_static),
        }

    def frontend_metadata(self) -> Any:
        """An ES module in a frame of its own."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/index.js", tab_name="HFC", disable_reload=False
        )

    def is_active(self) -> bool:
        """Whether there is anything of ours; if there are tensors, TensorBoard does not ask."""
        return self._reader.has_scalars_or_pictures(context.RequestContext(), "")

    def _index(self, request: Any) -> Any:
        found = self._reader.index(*_where(request))
        return http_util.Respond(request, found, "application/json")

    def _tensors(self, request: Any) -> Any:
        runs, tags = _runs_and_tags(request)
        try:
            steps = [int(step) for step in request.args.getlist("step")] or None
        except ValueError as error:
            raise errors.InvalidArgumentError("step: expected whole numbers") from error
        series = self._reader.tensors(*_where(request), runs, tags, steps)
        return http_util.Respond(request, pack(series), "application/octet-stream")

    def _scalars(self, request: Any) -> Any:
        read = self._reader.scalars(*_where(request), *_runs_and_tags(request))
        return http_util.Respond(request, read, "application/json")

    def _images(self, request: Any) -> Any:
        (run, *_), (tag, *_) = _runs_and_tags(request)
        read = self._reader.images(*_where(request), run, tag)
        return http_util.Respond(request, {"images": read}, "application/json")

    def _image(self, request: Any) -> Any:
        key = request.args.get("key", "")
        picture, kind = self._reader.image(_where(request)[0], key)
        return http_util.Respond(request, picture, kind, expires=86400)


def _where(request: Any) -> tuple[Any, str]:
    environ = request.environ
    return plugin_util.context(environ), plugin_util.experiment_id(environ)


def _runs_and_tags(request: Any) -> tuple[list[str], list[str]]:
    runs, tags = request.args.getlist("run"), request.args.getlist("tag")
    if not runs or not tags:
        raise errors.InvalidArgumentError("expected at least one run= and one tag=")
    if len(runs) * len(tags) > _SERIES_AT_ONCE:
        raise errors.InvalidArgumentError(
            f"expected at most {_SERIES_AT_ONCE} series at once, got {len(runs) * len(tags)}"
        )
    return runs, tags


def static_files() -> dict[str, Path]:
    """What the tab is made of, by path below ``static/``; a link that leads out is not among it."""
    found = (path.resolve() for path in STATIC.rglob("*") if path.suffix in _TYPES)
    inside = (path for path in found if path.is_relative_to(STATIC) and path.is_file())
    return {path.relative_to(STATIC).as_posix(): path for path in inside}


def _static(request: Any) -> Any:
    """A file below ``static/``, found in the list of those there are and not by its path."""
    path = static_files().get(request.path.rpartition("/static/")[2])
    if path is None:
        raise errors.NotFoundError("no such file")
    return http_util.Respond(request, path.read_bytes(), _TYPES[path.suffix])


def _answering(answer: Callable[[Any], Any]) -> Any:
    """A WSGI application; whatever goes wrong is answered as JSON with a status."""

    def respond(request: Any) -> Any:
        if request.method not in ("GET", "HEAD"):
            return _refuse(request, 405, "expected GET", [("Allow", "GET, HEAD")])
        try:
            return answer(request)
        except errors.PublicError as error:
            return _refuse(request, error.http_code, str(error), error.headers)
        except Exception:
            logger.exception("hfc: %s failed", request.path)
            return _refuse(
                request, 500, "the answer could not be made; TensorBoard's log says why", []
            )

    return wrappers.Request.application(respond)


def _refuse(request: Any, code: int, sentence: str, headers: list[tuple[str, str]]) -> Any:
    return http_util.Respond(
        request, {"error": sentence}, "application/json", code=code, headers=list(headers)
    )
