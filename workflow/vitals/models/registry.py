"""The names of timm's architectures, read without importing torch.

The workflow checks names each time that it starts; importing timm would take longer than all the
rest of a run that finds nothing to do.
"""

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from vitals.errors import unknown

ENTRYPOINT = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)


@lru_cache
def architectures() -> frozenset[str]:
    """Every architecture that timm registers."""
    package = find_spec("timm")
    assert package is not None and package.submodule_search_locations
    modules = Path(package.submodule_search_locations[0], "models").glob("*.py")
    return frozenset(name for path in modules for name in ENTRYPOINT.findall(path.read_text()))


def check_architecture(name: str) -> None:
    """Raise VitalsError for a name that timm does not register; a tag after a dot is not looked at.

    >>> check_architecture("vit_tiny_patch16_224")
    """
    if name.split(".")[0] not in architectures():
        raise unknown("architecture", name, architectures())
