"""What a study reads from the network, brought into the caches of this machine beforehand."""

import os
from collections.abc import Iterator

from vitals.errors import VitalsError
from vitals.models.registry import PRETRAINED
from vitals.study import Study

OFFLINE = "HF_HUB_OFFLINE"
ON = ("1", "ON", "YES", "TRUE")  # as the hub's package takes it


def fetch(study: Study) -> Iterator[str]:
    """Load the published weights of each model as the study will; a line for each.

    What is not in the caches comes from the network, and weights that lack a parameter of their
    model are met here. A dataset that is named has been fetched by the study's own listing of it.
    Raises VitalsError for weights that cannot be had.
    """
    from vitals.models import build, checkpoints

    for name in published(study):
        model = study.models[name]
        checkpoint = checkpoints.find(model["architecture"])
        network = build.load_weights(checkpoint, model["options"])
        parameters = sum(parameter.numel() for parameter in network.parameters())
        yield f"{name}: {parameters / 1e6:.1f} M parameters of {checkpoint}"


def check(study: Study) -> None:
    """VitalsError, before any job, for weights that a run without a network would not find.

    Asked only where HF_HUB_OFFLINE=1 says that there is none, and of models not yet loaded.
    """
    if os.environ.get(OFFLINE, "").upper() not in ON:
        return
    waiting = [n for n in published(study) if not (study.folder / n / "model.safetensors").exists()]
    if not waiting:
        return
    from vitals.models import cached  # timm takes seconds to import

    for name in waiting:
        architecture = study.models[name]["architecture"]
        if place := cached.missing(architecture):
            raise VitalsError(
                f"models.{name}: the weights of {architecture} are not at {place}, and {OFFLINE} "
                "says that there is no network: run `vitals fetch` with the study's file where "
                "there is one, with the same HF_HOME and TORCH_HOME"
            )


def published(study: Study) -> list[str]:
    """Names of the models whose weights others publish."""
    return [name for name, model in study.models.items() if model["weights"] == PRETRAINED]
