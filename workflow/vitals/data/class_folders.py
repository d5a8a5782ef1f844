"""Images in folders of their classes: which files are images, of which class, in which order.

A class is a folder of the first level; its images lie below it, at any depth. An image is a file
with one of `EXTENSIONS`. What has a name that begins with a dot is not looked at.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from vitals.data.source import round_robin
from vitals.errors import VitalsError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def is_image(name: str) -> bool:
    """Whether a file of this name, or path, is taken for an image."""
    return name.lower().endswith(EXTENSIONS)


def is_hidden(path: str) -> bool:
    """Whether a path has a part that begins with a dot.

    >>> is_hidden("cat/.thumbnails/1.png"), is_hidden("cat/1.png")
    (True, False)
    """
    return path.startswith(".") or "/." in path


def listing(
    stamps: Mapping[str, str], folders: Iterable[str], where: str
) -> tuple[tuple[str, ...], pd.DataFrame]:
    """The classes, and the images in their stated order.

    stamps: of each image, by path; folders: those of the first level; where: the dataset, for
    errors. The images of a class are in the order of their paths, and classes take turns.
    Raises VitalsError for an image outside any class, a class without an image, and no class.
    """
    paths = sorted(stamps)
    _check_text(paths, where)
    outside = next((path for path in paths if "/" not in path), None)
    if outside is not None:
        raise VitalsError(
            f"{where}: the image '{outside}' is in no class: expected class/image, with one folder "
            "a class; move it into one"
        )
    names = [path.partition("/")[0] for path in paths]
    empty = sorted(set(folders) - set(names))
    if empty:
        raise VitalsError(
            f"{where}: the class '{empty[0]}' has no image ({', '.join(EXTENSIONS)}): add images "
            "to its folder or remove it"
        )
    classes = sorted(set(names))
    if not classes:
        raise VitalsError(f"{where}: expected folders of classes with images, found none")
    place = {name: label for label, name in enumerate(classes)}
    labels = np.array([place[name] for name in names])
    order = round_robin(labels)
    ordered = [paths[position] for position in order]
    table = pd.DataFrame(
        {
            "image_id": ordered,
            "index": 0,
            "path": ordered,
            "label": labels[order],
            "stamp": [stamps[path] for path in ordered],
        }
    )
    return tuple(classes), table


def _check_text(paths: list[str], where: str) -> None:
    try:
        "".join(paths).encode()
    except UnicodeEncodeError:
        for path in paths:
            if not path.isprintable():  # an undecodable byte is a surrogate, which is not printed
                raise VitalsError(
                    f"{where}: the name {path!a} is not in UTF-8: rename the file"
                ) from None
