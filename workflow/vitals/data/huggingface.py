"""A map-style Hugging Face dataset: a folder that `save_to_disk` made, or a name at a revision."""

from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vitals.data import decode
from vitals.data.source import round_robin
from vitals.errors import VitalsError, one_line, unknown


class HuggingFace:
    """The rows of a dataset, as their encoded bytes; an image's id is its row.

    part: the split of the dataset, such as "validation"; subset: its configuration.
    """

    shape = None

    def __init__(
        self,
        path: str,
        revision: str | None,
        subset: str | None,
        part: str | None,
        image_column: str,
        label_column: str,
    ) -> None:
        self.path, self.revision, self.subset, self.part = path, revision, subset, part
        self.image_column, self.label_column = image_column, label_column
        self.where = f"images.path = '{path}'"
        self.on_disk = Path(path).is_dir()
        self._check_settings()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the label column, whether or not a row has them."""
        return tuple(self._dataset.features[self.label_column].names)

    def listing(self) -> pd.DataFrame:
        """One row a row; its stamp is the fingerprint of the whole dataset."""
        labels = self._labels()
        order = round_robin(labels)
        return pd.DataFrame(
            {
                "image_id": [f"row-{row:08d}" for row in order],
                "index": order,
                "path": "",
                "label": labels[order],
                "stamp": self._dataset._fingerprint,
            }
        )

    def read(self, path: str, index: int) -> bytes:
        """The encoded bytes of a row's image, in the dataset or in the file that it names."""
        found = self._encoded[index][self.image_column]
        if found is None:
            raise OSError("the row has no image")
        return Path(found["path"]).read_bytes() if found["bytes"] is None else found["bytes"]

    def decode(self, content: bytes) -> Image.Image:
        """The picture of a row."""
        return decode.picture(content)

    def _check_settings(self) -> None:
        if self.on_disk and (self.revision or self.subset):
            key = "revision" if self.revision else "subset"
            raise VitalsError(
                f"images.{key} = '{getattr(self, key)}': expected null for {self.where}, which is "
                "a folder; only a dataset that is named has one"
            )
        if not self.on_disk and not self.revision:
            raise VitalsError(
                f"images.revision: expected the commit or tag of {self.where}, found none; "
                "without it the dataset can change. (A folder of this path is not there.)"
            )
        if not self.on_disk and not self.part:
            raise VitalsError(
                f"images.part: expected a split of {self.where}, such as validation, found none"
            )

    def _labels(self) -> np.ndarray:
        column = self._dataset.select_columns([self.label_column]).with_format("arrow")
        values = column[:][self.label_column].to_pylist()
        without = [row for row, value in enumerate(values) if value is None or value < 0]
        if without:
            raise VitalsError(
                f"{self.where}: row {without[0]} has no class in column '{self.label_column}' "
                f"({len(without)} such rows); choose another images.part"
            )
        return np.array(values)

    @cached_property
    def _encoded(self) -> Any:
        images = self._dataset.select_columns([self.image_column])
        return images.cast_column(self.image_column, _package().Image(decode=False))

    @cached_property
    def _dataset(self) -> Any:
        package = _package()
        try:
            found = self._on_disk(package) if self.on_disk else self._named(package)
        except VitalsError:
            raise
        except Exception as error:  # of the hub's, arrow's and the package's own kinds
            raise VitalsError(f"{self.where} cannot be opened: {one_line(error)}") from error
        self._check_column("image_column", found, package.Image)
        self._check_column("label_column", found, package.ClassLabel)
        return found

    def _on_disk(self, package: ModuleType) -> Any:
        found = package.load_from_disk(self.path)
        if not isinstance(found, package.DatasetDict):
            if self.part:
                raise VitalsError(
                    f"images.part = '{self.part}': expected null, {self.where} is not in parts"
                )
            return found
        if self.part not in found:
            raise unknown("value of images.part:", str(self.part), found)
        return found[self.part]

    def _named(self, package: ModuleType) -> Any:
        return package.load_dataset(self.path, self.subset, revision=self.revision, split=self.part)

    def _check_column(self, key: str, dataset: Any, kind: type) -> None:
        column, features = getattr(self, key), dataset.features
        if not isinstance(features.get(column), kind):
            fitting = [name for name, feature in features.items() if isinstance(feature, kind)]
            raise VitalsError(
                f"images.{key} = '{column}': expected a column of type {kind.__name__} of "
                f"{self.where}; those of it: {', '.join(fitting) or 'none'}"
            )


def _package() -> ModuleType:
    try:
        import datasets
    except ImportError as error:
        raise VitalsError(
            "images.dataset = 'huggingface' needs the package 'datasets', which is not there "
            f"({one_line(error)}): install it with pip install 'vitals[huggingface]'"
        ) from error
    return datasets
