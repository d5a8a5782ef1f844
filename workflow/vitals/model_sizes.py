"""How large a model is, found once: whoever asks again reads it from a file, without torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from vitals.errors import VitalsError
from vitals.models.registry import TRAINED
from vitals.provenance import canonical
from vitals.whole import whole_file


@dataclass(frozen=True)
class ModelSize:
    """Taps, tokens of an image, channels of a token, parameters, numbers of a prepared image."""

    taps: int
    tokens: int
    channels: int
    parameters: int
    pixels: int


# of a ViT-L at 224: what a model is taken for whose own size cannot be had here
LARGE = ModelSize(taps=26, tokens=197, channels=1024, parameters=304_000_000, pixels=3 * 224 * 224)


def size_of(model: Mapping[str, Any], classes: int, kept: Path) -> ModelSize:
    """The size of a model of a study; that of a ViT-L where it is of a hub that is not in reach.

    classes: rows of the classifier of a model that is trained here; kept: the file of the sizes
    that were found before.
    """
    trained = model["weights"] == TRAINED
    key = canonical([model["architecture"], model["options"], classes if trained else None])
    known = _read(kept)
    if key not in known:
        try:
            known[key] = asdict(_measured(model, classes if trained else None))
        except VitalsError:
            return LARGE
        kept.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as partial:
            partial.write_text(canonical(known))
    return ModelSize(**known[key])


def _read(kept: Path) -> dict[str, dict[str, int]]:
    try:
        return json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}


def _measured(model: Mapping[str, Any], classes: int | None) -> ModelSize:
    from vitals.models import build
    from vitals.models.anatomy import anatomy

    skeleton = build.skeleton(model["architecture"], model["options"], classes)
    body = anatomy(skeleton)
    return ModelSize(
        taps=len(body.layers()),
        tokens=len(body.kinds),
        channels=body.channels,
        parameters=sum(parameter.numel() for parameter in skeleton.parameters()),
        pixels=prod(body.image_shape),
    )
