"""The text of the page around its data: one file each of structure, style and behaviour."""

from pathlib import Path

from vitals.provenance import short_digest

FOLDER = Path(__file__).parent
PARTS = ("page.html", "page.css", "page.js")


def parts() -> dict[str, str]:
    """The text of each part by its name."""
    return {name: (FOLDER / name).read_text() for name in PARTS}


def digest() -> str:
    """What tells this template from any other."""
    return short_digest("\0".join(parts().values()).encode())
