"""The names of timm's architectures, read without importing torch.

The workflow checks names each time that it starts; importing timm would take longer than all the
rest of a run that finds nothing to do.
"""

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from vitals.errors import VitalsError, unknown

ENTRYPOINT = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
# The modules of timm whose architectures are its plain VisionTransformer.
PLAIN = ("vision_transformer", "deit")


@lru_cache
def _modules() -> dict[str, str]:
    """The module of timm that registers each architecture."""
    package = find_spec("timm")
    assert package is not None and package.submodule_search_locations
    files = Path(package.submodule_search_locations[0], "models").glob("*.py")
    return {name: file.stem for file in files for name in ENTRYPOINT.findall(file.read_text())}


def architectures() -> frozenset[str]:
    """Every architecture that timm registers."""
    return frozenset(_modules())


def check_architecture(name: str) -> None:
    """Raise VitalsError for a name that timm does not register, or that is no plain ViT.

    A tag after a dot is not looked at.

    >>> check_architecture("vit_tiny_patch16_224")
    """
    module = _modules().get(name.split(".")[0])
    if module is None:
        raise unknown("architecture", name, architectures())
    if module not in PLAIN:
        raise VitalsError(
            f"architecture '{name}' is not supported: expected a plain Vision Transformer of timm, "
            f"of its modules {' and '.join(PLAIN)}"
        )
