"""Let timm be imported where torchvision's compiled operators cannot be loaded.

A CPU build of torch beside a CUDA build of torchvision cannot load them, and torchvision then fails
on import while it describes two operators that ViTals never calls. Declaring their schemas is
enough. Where the operators load, nothing is done. Import this before timm.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

SCHEMAS = ("nms", "qnms")


def _operators_load() -> bool:
    package = find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        return True
    for library in Path(package.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return True


if not _operators_load():
    # kept for the life of the process: a library that is collected takes its schemas away
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in SCHEMAS:
        _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
