"""Results that were made from the same things, wherever they lie: how they are known and found."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitals.errors import VitalsError
from vitals.provenance import canonical, digest_of

FINGERPRINT = "fingerprint"  # of all that decides a result: the same, the same result
TAKEN_FROM = "taken_from"  # where the result lay, if it was not made here


def fingerprint(**made_from: Any) -> str:
    """Digest of all that decides a result: settings, code, and the content of its inputs.

    Names, paths and times are to be left out: they decide nothing.
    """
    return digest_of(canonical(made_from).encode())


def elsewhere(path: Path, studies: Path) -> Iterator[Path]:
    """The file at the same place in the folder of each other model, of this study or another.

    path: {studies}/{study}/{model}/...; raises VitalsError for one that lies elsewhere.
    """
    own, folder = path.resolve(), studies.resolve()
    place = own.relative_to(folder).parts if own.is_relative_to(folder) else ()
    if len(place) < 3:
        raise VitalsError(f"{path} is no result of a model of a study in {studies}")
    within = Path(*place[2:])
    for found in sorted(studies.glob(str(Path("*", "*", within)))):
        if found.resolve() != own:
            yield found
