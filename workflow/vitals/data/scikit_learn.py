"""Where the images that scikit-learn ships lie.

They are read beside the package rather than through it: the workflow lists images each time that it
starts, and importing scikit-learn takes ten times as long as reading its files.
"""

from importlib.util import find_spec
from pathlib import Path


def file(*parts: str) -> Path:
    """A file of `sklearn.datasets`."""
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    return Path(package.submodule_search_locations[0], "datasets", *parts)
