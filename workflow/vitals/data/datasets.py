"""The kinds of dataset that a study can name, behind one interface."""

from collections.abc import Callable, Mapping
from typing import Any

from vitals.data.digits import Digits
from vitals.data.folder import Folder
from vitals.data.huggingface import HuggingFace
from vitals.data.photographs import Photographs
from vitals.data.source import ImageSource
from vitals.data.tar import Tar
from vitals.errors import VitalsError, unknown

HUB = ("revision", "subset", "part")
COLUMNS = ("image_column", "label_column")
# what makes a source, and which of the settings below say what it is
DATASETS: dict[str, tuple[Callable[..., ImageSource], tuple[str, ...]]] = {
    "digits": (Digits, ()),
    "photographs": (Photographs, ()),
    "folder": (Folder, ("path",)),
    "tar": (Tar, ("path",)),
    "huggingface": (HuggingFace, ("path", *HUB, *COLUMNS)),
}


def source(settings: Mapping[str, Any]) -> ImageSource:
    """The dataset of a study's `images` settings, of which it reads those that name it.

    Raises VitalsError for a dataset that is none, a path that is missing, and a setting that a
    dataset of this kind does not have.
    """
    name = settings["dataset"]
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    make, keys = DATASETS[name]
    for key in ("path", *HUB):
        value = settings.get(key)
        if value is not None and key not in keys:
            having = [kind for kind, (_, its_keys) in DATASETS.items() if key in its_keys]
            raise VitalsError(
                f"images.{key} = '{value}': expected null, the dataset '{name}' has none; only "
                f"{', '.join(having)} does"
            )
    if "path" in keys and not settings.get("path"):
        raise VitalsError(f"images.path: expected where the images of the dataset '{name}' are")
    defaults = {"image_column": "image", "label_column": "label"}
    return make(**{key: settings.get(key) or defaults.get(key) for key in keys})


def has_path(dataset: str) -> bool:
    """Whether a dataset of this kind lies at a path that a study gives."""
    return "path" in DATASETS[dataset][1]


def identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that say which dataset it is, wherever it lies, of those that its kind has."""
    of_kind = DATASETS[settings["dataset"]][1]
    keys = ("dataset", *(key for key in of_kind if key != "path"))
    return {key: settings[key] for key in keys if settings.get(key) is not None}
