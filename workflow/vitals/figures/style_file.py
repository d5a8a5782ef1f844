"""The lines of a matplotlib style file that say how figures look.

>>> "font.size: 7" in lines(HOUSE)
True
"""

import re
from pathlib import Path
from typing import Any

from vitals.errors import VitalsError
from vitals.provenance import short_digest

HOUSE = Path(__file__).with_name("house.mplstyle")
# What a figure needs to be laid out, and to be the same bytes on every machine.
NOT_OF_A_STYLE = ("figure.", "savefig.", "svg.", "pdf.", "ps.", "backend", "text.usetex", "toolbar")


def lines(path: Path) -> list[str]:
    """The lines of a style file that set something, without empty ones and comments.

    Raises VitalsError, naming the file, where it cannot be read.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise VitalsError(f"style = '{path}' cannot be read: {error.strerror}") from None
    kept = [line.strip() for line in text.splitlines()]
    return [line for line in kept if line and not line.startswith("#")]


def house_digest() -> str:
    """What tells our style from any other."""
    return short_digest("\n".join(lines(HOUSE)).encode())


def setting(line: str) -> dict[str, Any]:
    """What one line sets, as matplotlib reads it.

    Raises VitalsError for a key that matplotlib does not know or that is not a style's to set, and
    for a value that is not allowed.
    """
    import matplotlib  # slow, and needed by no one who only asks what there is to do

    key, _, value = (part.strip() for part in line.partition(":"))
    value = re.sub(r'\s#[^"]*$', "", value).strip().strip('"')
    if key not in matplotlib.rcParamsDefault or key.startswith(NOT_OF_A_STYLE):
        raise VitalsError(f"style: '{key}' is not a matplotlib setting that a style may have")
    try:
        return {key: matplotlib.RcParams({key: value})[key]}
    except ValueError as error:
        raise VitalsError(f"style: {key} = {value}: {error}") from None
