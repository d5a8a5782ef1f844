"""The frozen list of a study's images: which, in which order, with labels, split and digests."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vitals.data import datasets
from vitals.errors import VitalsError
from vitals.provenance import canonical, digest_of
from vitals.whole import whole_file

FIT, TEST = "fit", "test"


def chosen(dataset: str, limit: int | None) -> np.ndarray:
    """Labels of the images that a study uses: the first `limit` in the dataset's order, or all."""
    return datasets.source(dataset).labels()[:limit]


def stratified_split(labels: np.ndarray, test_share: float, seed: int) -> np.ndarray:
    """ "fit" or "test" for each image, the same share of every class: (image,).

    The images of a class, in order, are cut into runs of about 1/test_share, and one image of each
    run is drawn for the test split (above a half, of 1/(1 − test_share) and for the fit split). So
    a longer list never moves an image from one split to the other.
    Raises VitalsError where that leaves a class without an image in one of the two.

    >>> stratified_split(np.array([0, 0, 1, 1, 0, 0]), 0.5, seed=0).tolist()
    ['fit', 'test', 'fit', 'test', 'test', 'fit']
    """
    usual, rare, share = FIT, TEST, test_share
    if test_share > 0.5:
        usual, rare, share = TEST, FIT, 1 - test_share
    split = np.full(labels.size, usual, dtype=f"<U{len(TEST)}")
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # run r is the places from ⌈r/share⌉ up to ⌈(r+1)/share⌉: no two runs share an image
        start = np.ceil(np.arange(members.size + 1) / share)
        place = np.random.default_rng([seed, label]).random(members.size) * np.diff(start)
        drawn = start[:-1] + np.floor(place)
        split[members[drawn[drawn < members.size].astype(int)]] = rare
        for name in (FIT, TEST):
            if not (split[members] == name).any():
                raise VitalsError(
                    f"images.test_share = {test_share} leaves class {label} ({members.size} "
                    f"images) without an image in the split '{name}'"
                )
    return split


def build(dataset: str, test_share: float, seed: int, limit: int | None) -> pd.DataFrame:
    """The image list: one row an image, in the dataset's order.

    Columns: image_id, index (place in the dataset), label, class_name, split, digest (of the
    pixels). Raises VitalsError for an unknown dataset or a split that leaves a class empty.
    """
    source = datasets.source(dataset)
    labels = chosen(dataset, limit)
    indices = np.arange(labels.size)
    width = len(str(source.labels().size - 1))
    return pd.DataFrame(
        {
            "image_id": [f"{dataset}-{index:0{width}d}" for index in indices],
            "index": indices,
            "label": labels,
            "class_name": [source.classes[label] for label in labels],
            "split": stratified_split(labels, test_share, seed),
            "digest": [digest_of(image.tobytes()) for image in source.pixels(indices)],
        }
    )


def write(table: pd.DataFrame, path: Path, dataset: str, spec: str, code: str) -> None:
    """Write the list, and in its metadata what it was made from."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    about = {"dataset": dataset, "spec": spec, "code": code}
    metadata = {**(arrow.schema.metadata or {}), b"vitals": canonical(about).encode()}
    with whole_file(path) as partial:
        pq.write_table(arrow.replace_schema_metadata(metadata), partial)


@dataclass(frozen=True)
class ImageList:
    """An image list as read back: its table, the dataset that it indexes, and its digest."""

    table: pd.DataFrame
    source: datasets.ImageSource
    digest: str

    @property
    def classes(self) -> int:
        """The number of classes of the dataset."""
        return len(self.source.classes)

    def rows(self, start: int, stop: int) -> "ImageList":
        """A slice of the list."""
        return ImageList(self.table.iloc[start:stop], self.source, self.digest)

    def of_split(self, split: str) -> "ImageList":
        """The images of one split."""
        return ImageList(self.table[self.table["split"] == split], self.source, self.digest)

    def labels(self) -> np.ndarray:
        """Labels: (image,)."""
        return self.table["label"].to_numpy()

    def pixels(self) -> np.ndarray:
        """Pixels in [0, 1], (image, channel, row, column); VitalsError for one that has changed."""
        pixels = self.source.pixels(self.table["index"].to_numpy())
        for image, digest, name in zip(
            pixels, self.table["digest"], self.table["image_id"], strict=True
        ):
            if digest_of(image.tobytes()) != digest:
                raise VitalsError(f"image {name} is not the one that was listed: its pixels differ")
        return pixels


def read(path: Path) -> ImageList:
    """Read a list that `write` wrote."""
    arrow = pq.read_table(path)
    table = arrow.to_pandas()
    about = json.loads(arrow.schema.metadata[b"vitals"])
    digest = digest_of(
        canonical(table[["image_id", "label", "split", "digest"]].to_dict("list")).encode()
    )
    return ImageList(table, datasets.source(about["dataset"]), digest)
