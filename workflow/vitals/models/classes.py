"""Which row of a classifier is which class of the images: by name, never by position."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from vitals.errors import VitalsError

# timm's lists of the classes of ImageNet's parts, by the number of rows of a classifier of theirs
IMAGENET = {
    1000: "imagenet_synsets.txt",
    11221: "imagenet21k_miil_synsets.txt",
    11821: "imagenet12k_synsets.txt",
    21841: "imagenet22k_synsets.txt",
    21842: "imagenet22k_ms_synsets.txt",
    21843: "imagenet21k_goog_synsets.txt",
}
MOST_NAMED = 5  # of the classes that an error lists


@dataclass(frozen=True)
class Classes:
    """The classes of a classifier's rows.

    names: one a row, "" where nobody names it; descriptions: further words for a name, such as
    "tench, Tinca tinca", each of which stands for it where no other row has it too.
    """

    names: tuple[str, ...]
    descriptions: Mapping[str, str]

    def row(self, name: str) -> int | None:
        """The row of a class by its name, or by a description, whatever its case; None for none.

        Raises VitalsError for a name that several rows have.

        >>> Classes(("n01440764", "n01443537"), {"n01440764": "tench, Tinca tinca"}).row("Tench")
        0
        """
        found = self._named.get(name) or self._spelled.get(_plain(name)) or []
        if len(found) > 1:
            several = ", ".join(self.names[row] for row in found[:MOST_NAMED])
            raise VitalsError(
                f"class '{name}' is the name of {len(found)} rows of the classifier: expected one "
                f"of {several}"
            )
        return found[0] if found else None

    def nearest(self, name: str) -> str | None:
        """The name or description that is spelled most alike."""
        alike = difflib.get_close_matches(_plain(name), self._spelled, n=1)
        return alike[0] if alike else None

    @cached_property
    def _named(self) -> dict[str, list[int]]:
        """The rows of each name, as it is written."""
        return _grouped((name, row) for row, name in enumerate(self.names) if name)

    @cached_property
    def _spelled(self) -> dict[str, list[int]]:
        """The rows that each spelling of a name or description stands for."""
        return _grouped(
            (spelling, row)
            for row, name in enumerate(self.names)
            for spelling in _spellings(name, self.descriptions.get(name, ""))
        )


def rows(class_names: Sequence[str], model_classes: Classes) -> np.ndarray:
    """The classifier's row of each class of the images: (class,).

    Raises VitalsError for classes that no row has, naming them and what is spelled most alike, for
    a name that several rows have, and for two classes of one row.

    >>> rows(["fish", "cat"], named(["dog", "cat", "fish"]))
    array([2, 1])
    """
    found = [model_classes.row(name) for name in class_names]
    missing = [name for name, row in zip(class_names, found, strict=True) if row is None]
    if missing:
        raise _missing(missing, model_classes)
    first: dict[int | None, str] = {}
    for name, row in zip(class_names, found, strict=True):
        if row in first:
            raise VitalsError(
                f"classes '{first[row]}' and '{name}' of the images are both row {row} of the "
                f"classifier, '{model_classes.names[row]}': make them one class"
            )
        first[row] = name
    return np.array(found, dtype=np.int64)


def named(names: Sequence[str], descriptions: Mapping[str, str] | None = None) -> Classes:
    """The classes of rows with these names, in order."""
    return Classes(tuple(names), descriptions or {})


def imagenet(number: int) -> Classes | None:
    """The classes of a classifier of ImageNet with this many rows, by timm's lists: synsets.

    None for a number that is no part of ImageNet's.

    >>> imagenet(1000).names[0], imagenet(1000).row("goldfish"), imagenet(512)
    ('n01440764', 1, None)
    """
    if number not in IMAGENET:
        return None
    return Classes(tuple(_lines(IMAGENET[number])), _lemmas())


def _missing(missing: list[str], model_classes: Classes) -> VitalsError:
    said = []
    for name in missing[:MOST_NAMED]:
        nearest = model_classes.nearest(name)
        said.append(f"'{name}'" + (f" (did you mean '{nearest}'?)" if nearest else ""))
    more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    return VitalsError(
        f"the classifier's {len(model_classes.names)} rows have no class {', '.join(said)}{more}: "
        "name the classes of the images as its rows, give the name of each row as `classes`, or "
        "leave the classifier out by the option num_classes: 0"
    )


def _grouped(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for spelling, row in pairs:
        found.setdefault(spelling, []).append(row)
    return found


def _spellings(name: str, description: str) -> set[str]:
    """What a row may be called: its name, its description whole, and each word of it."""
    return {_plain(word) for word in (name, description, *description.split(","))} - {""}


def _plain(name: str) -> str:
    """A spelling without what people spell differently: case, and underscores for spaces."""
    return " ".join(name.casefold().replace("_", " ").split())


@lru_cache
def _lemmas() -> dict[str, str]:
    """The words of each synset: n01440764 -> "tench, Tinca tinca"."""
    return dict(line.split("\t", 1) for line in _lines("imagenet_synset_to_lemma.txt"))


def _lines(name: str) -> list[str]:
    package = find_spec("timm")
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0], "data", "_info")
    return (folder / name).read_text(encoding="utf-8").splitlines()
