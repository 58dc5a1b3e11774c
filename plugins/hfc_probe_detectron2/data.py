"""detectron2's data sets as an audit reads them: ground truth, pictures, loaders."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.data.datasets.coco import convert_to_coco_dict
from detectron2.utils.file_io import PathManager
from torch import Tensor

from hfc_probe.detection import GroundTruth
from hfc_probe.detection.pictures import check_depth, is_turned, read_picture
from hfc_probe.ground.errors import InputError
from hfc_probe.ground.hashing import file_digest

BROKEN = "hfc_probe_broken"  # key of an input that stands for an image that cannot be read


class CatalogImages:
    """A data set registered with detectron2, COCO's or any other of its standard form.

    Args:
        name: as registered with ``DatasetCatalog``.

    Raises:
        InputError: an unknown name, or annotations that cannot be read.
    """

    def __init__(self, name: str) -> None:
        check_name(name)
        self.name = name
        metadata = MetadataCatalog.get(name)
        if not hasattr(metadata, "thing_classes"):
            DatasetCatalog.get(name)  # a registered JSON tells its categories on being read
        self._entries: dict[Any, dict[str, Any]] = {}
        if hasattr(metadata, "json_file"):
            self.truth = GroundTruth.read(PathManager.get_local_path(metadata.json_file))
        else:
            # Without "annotations" if there are none at all.
            self.truth = GroundTruth.read({"annotations": [], **convert_to_coco_dict(name)})
        mapping = getattr(metadata, "thing_dataset_id_to_contiguous_id", None)
        # What the model calls class k; if nothing says otherwise, category k.
        self.category_ids: dict[int, int] | None = (
            None if mapping is None else {int(k): int(v) for v, k in mapping.items()}
        )

    def category_id(self, label: int) -> int:
        """Category id of the model's class.

        Raises:
            InputError: a class that the data set does not have.
        """
        if self.category_ids is None:
            return label
        if label not in self.category_ids:
            raise InputError(
                f"detector: expected classes from 0 to {len(self.category_ids) - 1}, as many as "
                f"{self.name} has categories, got {label}; is the model trained on other data?"
            )
        return self.category_ids[label]

    def _file(self, image_id: Any) -> str:
        if not self._entries:
            self._entries = {entry["image_id"]: entry for entry in DatasetCatalog.get(self.name)}
        return str(self._entries[image_id]["file_name"])

    def digest(self, image_id: Any) -> str:
        """Of the image's file; empty if it cannot be read."""
        return file_digest(PathManager.get_local_path(self._file(image_id)))

    def turned(self, image_id: Any) -> bool:
        """Whether an image is turned upright by its EXIF orientation, as detectron2 does."""
        return is_turned(PathManager.get_local_path(self._file(image_id)))

    def load(self, image_id: Any) -> Tensor:
        """The image as RGB float32 ``(3, H, W)`` in [0, 1].

        Raises:
            BrokenImageError: the file cannot be read.
        """
        file = self._file(image_id)
        return read_picture(PathManager.get_local_path(file), f"{file} (id {image_id})")


def check_name(name: str) -> None:
    """Raise :class:`InputError` for a data set that detectron2 does not know."""
    if name not in DatasetCatalog.list():
        close = [n for n in DatasetCatalog.list() if n.split("_")[0] == name.split("_")[0]][:5]
        raise InputError(
            f"dataset: expected a name registered with detectron2, got {name!r}; "
            f"{'known are ' + ', '.join(close) if close else 'register_coco_instances adds one'}"
        )


def mapper_for(model: Any, cfg: Any = None) -> Any:
    """How test images are read and resized: by the config, else to 800 pixels as RetinaNet's."""
    if cfg is not None and hasattr(cfg, "INPUT"):
        return DatasetMapper(cfg, is_train=False)
    return DatasetMapper(
        is_train=False,
        augmentations=[T.ResizeShortestEdge(short_edge_length=[800, 800], max_size=1333)],
        image_format=getattr(model, "input_format", None) or "BGR",
    )


def loader_for(
    name: str,
    mapper: Callable[[Mapping[str, Any]], Any],
    *,
    limit: int | None = None,
    batch_size: int = 1,
    workers: int = 0,
    skip_broken: bool = False,
    seed: int = 0,
) -> Any:
    """detectron2's own test loader over a data set, or over a seeded random part of it."""
    check_name(name)
    quiet = logging.getLogger("detectron2.data.build")
    level = quiet.level
    quiet.setLevel(logging.WARNING)  # its table of all categories, at every audit
    try:
        entries = get_detection_dataset_dicts(name, filter_empty=False)
        if limit is not None and limit < len(entries):
            chosen = sorted(random.Random(seed).sample(range(len(entries)), limit))
            entries = [entries[k] for k in chosen]
        return build_detection_test_loader(
            dataset=entries,
            mapper=_Tolerant(mapper) if skip_broken else mapper,
            batch_size=batch_size,
            num_workers=workers,
        )
    finally:
        quiet.setLevel(level)


class _Tolerant:
    """A mapper that passes on what is wrong with an image instead of raising it."""

    def __init__(self, mapper: Callable[[Mapping[str, Any]], Any]) -> None:
        self._mapper = mapper
        self.augmentations = getattr(mapper, "augmentations", None)
        self.image_format = getattr(mapper, "image_format", None)

    def __call__(self, entry: Mapping[str, Any]) -> Any:
        try:
            check_depth(PathManager.get_local_path(entry["file_name"]))
            return self._mapper(entry)
        except Exception as error:  # whatever a decoder raises
            reason = f"images: expected an image in {entry.get('file_name')}, got {error}"
            return {"image_id": entry["image_id"], BROKEN: reason}
