"""Finished images on disk, so that an interrupted audit resumes."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..ground.errors import InputError, named
from .coco import MALFORMED, Detections, ImageId, image_id_of
from .identity import same_answer

logger = logging.getLogger("hfc_probe")

Finished = dict[ImageId, dict[str, Detections]]  # by image, then by variant
_CONFIRMED = 2  # finished images that a detector is shown again before they are believed


class PredictionStore:
    """Detections of finished images, one JSON line each, one file per process.

    A line is written when all variants of its image are done. Numbers are kept to the last
    digit. A line that was cut off by an interruption is not counted.

    Args:
        folder: where the files are; None keeps them in memory only.
        fingerprint: settings and detector; files made with others are refused.
        rank: of this process.
        changing: says, after the first image, what of the fingerprint calling the detector changes
            (see :func:`hfc_probe.detection.identity.changed`): that is never compared.

    Attributes:
        finished: detections of finished images.
        digests: of their files, as far as they are known.

    Raises:
        InputError: files of another audit, or a place that cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        fingerprint: Mapping[str, Any],
        rank: int = 0,
        changing: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self.finished: Finished = {}
        self.digests: dict[ImageId, str] = {}
        self._folder = None if folder is None else Path(folder)
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._file: IO[bytes] | None = None
        self._rank = rank
        self._changing = changing
        if self._folder is not None and self._folder.is_dir():
            for part in sorted(self._folder.glob("part-*.jsonl")):
                self._read(part)
        # Last, so that what is refused above holds no lock.
        self._lock = self._locked() if self._folder is not None and rank == 0 else None

    def _read(self, part: Path) -> int:
        """Take over what a file holds; returns how many bytes of it are whole lines."""
        whole = 0
        with part.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    content = json.loads(line)
                    if number == 0:
                        self._check(content, part)
                    else:
                        image_id = image_id_of(content["image_id"])
                        self.finished[image_id] = {
                            name: _detections(found) for name, found in content["variants"].items()
                        }
                        self.digests[image_id] = content.get("digest") or ""
                except InputError:
                    raise
                except MALFORMED:
                    break  # damaged: these images are done again
                whole += len(line)
        return whole

    def _check(self, found: Any, part: Path) -> None:
        known = found if isinstance(found, Mapping) else {}
        changing = known.get("changing", ())
        known, wanted = (_without(one, changing) for one in (known, self._fingerprint))
        if known == wanted:
            return
        differing = list(_differing(known, wanted))
        raise InputError(
            f"resume: expected finished images of this very audit in {part.parent}, got "
            f"{'; '.join(differing) or 'another version'}; choose another directory or delete that "
            "one"
        )

    def believe(
        self, image_ids: Sequence[ImageId], digest: Callable[[ImageId], str] | None, *, say: bool
    ) -> tuple[ImageId, ...]:
        """Look at finished images before any is taken over; says how many are.

        Args:
            image_ids: of the whole audit.
            digest: of an image's file as it is now.
            say: whether this process speaks for all.

        Returns:
            Images to be run again and given to :meth:`confirm`: those with most detections.

        Raises:
            InputError: files that were replaced since.
        """
        known = [i for i in image_ids if i in self.finished]
        changed = [
            i for i in known if digest and self.digests.get(i) and digest(i) != self.digests[i]
        ]
        if changed:
            raise InputError(
                f"resume: expected the images that finished detections in {self._folder} are of, "
                f"got other files under the same names for {named(changed)}; choose another "
                "directory or delete that one"
            )
        if known and say:
            logger.warning(
                "hfc_probe: %d of %d images taken from an earlier run (%s)",
                len(known),
                len(image_ids),
                self._folder,
            )
        most = sorted(known, key=lambda i: -sum(len(d.scores) for d in self.finished[i].values()))
        return tuple(most[:_CONFIRMED])

    def confirm(self, image_id: ImageId, variants: Mapping[str, Detections]) -> None:
        """Compare a finished image with a new run of it.

        Raises:
            InputError: another answer, so that this is another detector.
        """
        if not same_answer(self.finished[image_id], variants):
            raise InputError(
                f"resume: expected the detector whose finished images are in {self._folder}, got "
                f"one that finds other boxes in image {image_id}; choose another directory or "
                "delete that one"
            )

    def add(self, image_id: ImageId, variants: Mapping[str, Detections], digest: str = "") -> None:
        """An image is finished; ``digest`` is its file's."""
        self.finished[image_id] = dict(variants)
        if self._folder is None:
            return
        content = {
            "image_id": image_id,
            "digest": digest,
            "variants": {
                name: {
                    key: value.tolist() if isinstance(value, np.ndarray) else value
                    for key, value in found._asdict().items()
                    if value is not None
                }
                for name, found in variants.items()
            },
        }
        with _writable(self._folder):
            file = self._file or self._open(self._folder)
            file.write(json.dumps(content).encode() + b"\n")
            file.flush()

    def _open(self, folder: Path) -> IO[bytes]:
        part = folder / f"part-{self._rank:03d}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        whole = self._read(part) if part.exists() else 0
        self._file = part.open("ab")
        self._file.truncate(whole)
        if whole == 0:
            head = {**self._fingerprint, "changing": list(self._changing())}
            self._file.write(json.dumps(head).encode() + b"\n")
        return self._file

    def _locked(self) -> int | None:
        """A lock on the folder; None on systems without such locks."""
        assert self._folder is not None
        try:
            import fcntl
        except ImportError:
            return None
        with _writable(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise InputError(
                f"resume: expected that nobody else writes into {self._folder}, got another run "
                "that does; wait for it or choose another directory"
            ) from error
        except OSError:  # a file system without locks
            os.close(lock)
            return None
        return lock

    def close(self) -> None:
        file, lock = self._file, self._lock
        self._file = self._lock = None
        if lock is not None:
            os.close(lock)
        if file is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take was said
                file.close()


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"output: expected a place that can be written, got {folder} ({error.strerror}); what "
            "was finished before is kept"
        ) from error


def _without(fingerprint: Mapping[str, Any], changing: Sequence[str]) -> dict[str, Any]:
    """A fingerprint without what calling the detector changes."""
    kept = {k: v for k, v in fingerprint.items() if k not in changing and k != "changing"}
    if "attributes" in kept:
        attributes = kept["attributes"].items()
        kept["attributes"] = {k: v for k, v in attributes if f"attributes.{k}" not in changing}
    return kept


def _differing(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    other = known.get("detector") != wanted.get("detector")
    for key in {**wanted, **known}:
        value = wanted.get(key)
        if other and key in ("weights", "code", "attributes"):
            continue  # of course
        before = known.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            names = [n for n in {**before, **value} if before.get(n) != value.get(n)]
            if names:
                yield f"other {key} ({named(names)})"
        elif before != value:
            yield f"{key} {reprlib.repr(before)} instead of {reprlib.repr(value)}"


def _detections(found: Mapping[str, Any]) -> Detections:
    """Of one image, as :meth:`PredictionStore.add` wrote them; ValueError for other lengths."""
    read = Detections(
        np.array(found["boxes"], dtype=np.float64).reshape(-1, 4),
        np.array(found["scores"], dtype=np.float64),
        np.array(found["labels"], dtype=np.int64),
        tuple(found["masks"]) if "masks" in found else None,
        _points(found["keypoints"]) if "keypoints" in found else None,
    )
    others = {len(part) for part in read[3:] if part is not None}
    if others - {len(read.boxes)} or {read.scores.shape, read.labels.shape} != {(len(read.boxes),)}:
        raise ValueError("as many scores and labels as boxes")
    return read


def _points(found: Sequence[Any]) -> NDArray[np.float64]:
    """``(n, K, 3)``, also if there are none."""
    return (
        np.array(found, dtype=np.float64).reshape(len(found), -1, 3)
        if found
        else np.zeros((0, 17, 3))
    )
