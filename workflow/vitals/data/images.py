"""The frozen list of a study's images: which, in which order, with labels, split and digests."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from vitals.data import datasets, digests
from vitals.data.source import ImageSource, Picture, UnreadableError
from vitals.errors import VitalsError, one_line
from vitals.progress import announce
from vitals.provenance import canonical, digest_of
from vitals.whole import whole_file

FIT, TEST = "fit", "test"
WHAT = ("image_id", "label", "class_name", "split")
COLUMNS = ("image_id", "index", "path", "label", "class_name", "split", "stamp", "digest")


def stratified_split(
    labels: np.ndarray, test_share: float, seed: int, classes: Sequence[str] | None = None
) -> np.ndarray:
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
                    f"images.test_share = {test_share} leaves class "
                    f"{label if classes is None else classes[label]} ({members.size} "
                    f"images) without an image in the split '{name}'"
                )
    return split


def listed(settings: Mapping[str, Any], previous: Path | None = None) -> pd.DataFrame:
    """The images of a study, without reading any whose stamp is the one that was listed.

    settings: a study's `images`; previous: the list that was frozen, if there is one. What it lists
    keeps its place, new images follow in the dataset's order, and of all the first `limit` are
    used. An image with another stamp and the same content keeps the stamp that was listed.
    Columns: all of `COLUMNS` but the digest; attrs: `classes` and `shape` of the dataset.
    Raises VitalsError as the dataset does, for a split that leaves a class empty, and for a
    previous list that cannot be read.
    """
    return _continued(settings, previous).drop(columns="digest")


def build(settings: Mapping[str, Any], previous: Path | None = None) -> pd.DataFrame:
    """The same with the digest of each image's content, read where the previous list lacks it.

    An image that cannot be read has none: it is met where it is used.
    """
    table = _continued(settings, previous)
    new = table["digest"].isna()
    if new.any():
        source = datasets.source(settings)
        table.loc[new, "digest"] = digests.of_contents(source, table[new])
    unreadable = table.loc[table["digest"] == digests.UNREADABLE, "image_id"]
    if len(unreadable):
        announce(f"images: {len(unreadable)} cannot be read, the first is {unreadable.iloc[0]}")
    return table


def fingerprint(table: pd.DataFrame) -> str:
    """Digest of what a list, or a slice of one, is: which images, of which classes and splits.

    Of an image's content it takes the stamp, so that none need be read.
    """
    return _digest(table, (*WHAT, "stamp"))


def _digest(table: pd.DataFrame, columns: Sequence[str]) -> str:
    return digest_of(canonical([table[column].tolist() for column in columns]).encode())


def _continued(settings: Mapping[str, Any], previous: Path | None) -> pd.DataFrame:
    """The list after the previous one; the digest is that of the previous list, or missing."""
    source = datasets.source(settings)
    table, classes = source.listing(), source.classes
    old = None if previous is None else read(previous)
    if old is not None:
        table, classes = _in_frozen_order(table, classes, old)
    table = table[: settings["limit"]].reset_index(drop=True)
    table["digest"] = pd.Series(None, index=table.index, dtype="str")
    if old is not None:
        _keep_stamps(table, old.table, source, previous.with_name(f".{previous.name}.stamps"))
    labels = table["label"].to_numpy()
    table["class_name"] = np.array(classes)[labels]
    table["split"] = stratified_split(labels, settings["test_share"], settings["seed"], classes)
    table = table[list(COLUMNS)]
    table.attrs = {"classes": classes, "shape": source.shape}
    return table


def _in_frozen_order(
    table: pd.DataFrame, classes: tuple[str, ...], old: "ImageList"
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Images and classes in the order of an older list as far as they are there, then new ones."""
    places = pd.Index(table["image_id"]).get_indexer(pd.Index(old.table["image_id"]))
    kept = places[places >= 0]
    new = np.setdiff1d(np.arange(len(table)), kept)  # sorted: in the dataset's order
    table = table.iloc[np.concatenate([kept, new])]
    known, listed_before = set(classes), set(old.classes)
    order = [name for name in old.classes if name in known]
    order += [name for name in classes if name not in listed_before]
    place = {name: label for label, name in enumerate(order)}
    renamed = np.array([place[name] for name in classes])  # (label of the dataset,) -> of the list
    return table.assign(label=renamed[table["label"].to_numpy()]), tuple(order)


def _keep_stamps(table: pd.DataFrame, old: pd.DataFrame, source: ImageSource, record: Path) -> None:
    """Put in the digests that are known; and the old stamp where the content is the same."""
    old = old.set_index("image_id").reindex(table["image_id"]).reset_index()
    touched = old["stamp"].notna() & (old["stamp"] != table["stamp"])
    table["digest"] = old["digest"].where(~touched)
    if touched.any():
        table.loc[touched, "digest"] = digests.remembered(source, table[touched], record)
    same = touched & (table["digest"] == old["digest"])
    table["stamp"] = old["stamp"].where(same, table["stamp"])


def write(
    table: pd.DataFrame,
    path: Path,
    settings: Mapping[str, Any],
    spec: str,
    code: str,
    **origin: Mapping[str, str],
) -> None:
    """Write a list that `build` made, and in its metadata what it is of and was made from.

    settings: those it was built with; where the images lie is the one thing that is not kept;
    origin: what else it was made from, `modules` and `inputs`.
    """
    about = {
        **datasets.identity(settings),
        "classes": list(table.attrs["classes"]),
        "shape": table.attrs["shape"],
        "spec": spec,
        "code": code,
        **origin,
    }
    bare = table.copy()
    bare.attrs = {}
    arrow = pa.Table.from_pandas(bare, preserve_index=False)
    metadata = {**(arrow.schema.metadata or {}), b"vitals": canonical(about).encode()}
    with whole_file(path) as partial:
        pq.write_table(arrow.replace_schema_metadata(metadata), partial)


@dataclass(frozen=True)
class ImageList:
    """An image list as read back, whole or a part of it.

    table: one row an image, with `COLUMNS`; classes: their names, in the order of the labels;
    shape: (channel, row, column) of every image, or None for pictures of any size;
    dataset: where it lies today, None where that was not said.
    """

    table: pd.DataFrame
    classes: tuple[str, ...]
    shape: tuple[int, int, int] | None
    dataset: ImageSource | None

    @property
    def source(self) -> ImageSource:
        """The dataset itself; VitalsError where the list was read without saying where it lies."""
        if self.dataset is None:
            raise VitalsError("expected where the images lie today (--data), found nothing")
        return self.dataset

    @property
    def digest(self) -> str:
        """Digest of what is listed here, with the content of the images."""
        return _digest(self.table, (*WHAT, "digest"))

    def rows(self, start: int, stop: int) -> "ImageList":
        """A slice of the list."""
        return dataclasses.replace(self, table=self.table.iloc[start:stop])

    def of_split(self, split: str) -> "ImageList":
        """The images of one split."""
        return dataclasses.replace(self, table=self.table[self.table["split"] == split])

    def labels(self) -> np.ndarray:
        """Labels: (image,)."""
        return self.table["label"].to_numpy()

    def picture(self, place: int) -> Picture:
        """The image at a place of this list: a picture in RGB, or an array in [0, 1].

        Raises UnreadableError for one that cannot be read or decoded, and VitalsError for one whose
        content is not what was listed. Safe in several threads.
        """
        image_id, path, index, digest = self._rows[place]
        where = f"image {image_id}" + (f" ({path})" if path not in ("", image_id) else "")
        if digest == digests.UNREADABLE:
            raise UnreadableError(f"{where} could not be read when it was listed")
        try:
            content = self.source.read(path, index)
            if digest_of(content) != digest:
                raise VitalsError(
                    f"{where} is not the one that was listed: its content has changed since. Run "
                    "the study again, so that it is listed as it is now, or put the old one back"
                )
            return self.source.decode(content)
        except OSError as error:
            raise UnreadableError(f"{where} cannot be read: {one_line(error)}") from error

    def pixels(self) -> np.ndarray:
        """All images at once, in [0, 1]: (image, channel, row, column), float32.

        For images of one shape; raises VitalsError for pictures, and as `picture` does.
        """
        if self.shape is None:
            raise VitalsError(
                "expected a dataset of arrays of one shape, such as digits; found pictures of any "
                "size, which are to be prepared for a model"
            )
        return np.stack([self.picture(place) for place in range(len(self.table))])

    @cached_property
    def _rows(self) -> list[tuple[str, str, int, str]]:
        columns = ("image_id", "path", "index", "digest")
        return list(zip(*(self.table[column].tolist() for column in columns), strict=True))


def read(path: Path, data: str | None = None) -> ImageList:
    """Read a list that `write` wrote; data: where its images lie today, for a dataset with a path.

    Without `data`, all but the images themselves can be asked for; with it, the dataset is not read
    before an image is. Raises VitalsError for a file that is no such list.
    """
    try:
        arrow = pq.read_table(path)
        about = json.loads(arrow.schema.metadata[b"vitals"])
        found = arrow.select(list(COLUMNS)).to_pandas()
        classes, shape = about["classes"], about["shape"]
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise VitalsError(
            f"{path} is no image list of this version, or is damaged ({one_line(error)}): "
            "remove it, and the study lists its images anew"
        ) from error
    unplaced = data is None and datasets.has_path(about["dataset"])
    source = None if unplaced else datasets.source({**about, "path": data})
    return ImageList(found, tuple(classes), shape and tuple(shape), source)
