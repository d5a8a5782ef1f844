"""One self-contained file: the template, plotly's script, and the data, with where it comes from.

Nothing in it is loaded from anywhere, and its policy forbids a browser to try.
"""

import json
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from vitals.page import template
from vitals.provenance import canonical
from vitals.whole import whole_file


def write(contents: dict[str, Any], path: Path, **origin: Any) -> None:
    """Write the page, whole or not at all.

    origin: what it was made from, `spec`, `code`, `modules` and `inputs`, kept in the page.
    """
    with whole_file(path) as partial:
        partial.write_text(html(contents, origin))


def html(contents: dict[str, Any], origin: dict[str, Any]) -> str:
    """The text of the page."""
    parts = template.parts()
    values = {
        "{{title}}": _escaped(contents["study"]),
        "{{style}}": parts["page.css"],
        "{{plotly}}": get_plotlyjs(),
        "{{data}}": _json(contents),
        "{{origin}}": _in_a_script(canonical(origin)),
        "{{behaviour}}": parts["page.js"],
    }
    text = parts["page.html"]
    for place, value in values.items():  # each place is there once, and no value is looked at again
        before, after = text.split(place)
        text = f"{before}{value}{after}"
    return text


def _json(value: Any) -> str:
    return _in_a_script(json.dumps(value, separators=(",", ":"), allow_nan=False))


def _in_a_script(text: str) -> str:
    """JSON that cannot end the script element that it stands in."""
    return text.replace("<", "\\u003c")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
