"""Whether published weights lie in the caches of this machine."""

from pathlib import Path
from urllib.parse import urlparse

import vitals.models.torchvision_operators  # noqa: F401  (must come before timm)

# isort: split
import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache

from vitals.models import torchvision_weights
from vitals.models.registry import HUB, TORCHVISION

CONFIG = "config.json"
# What timm looks for in a repository, of which one is enough.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def missing(architecture: str) -> str | None:
    """Where published weights should lie and do not; None where they do.

    architecture: as `registry.check_architecture` takes it.
    """
    if architecture.startswith(TORCHVISION):
        return _missing_download(torchvision_weights.weights_of(architecture).url)
    if architecture.startswith(HUB):
        repository, _, revision = architecture.removeprefix(HUB).partition("@")
        return _missing_repository(repository, WEIGHTS, revision) or _missing_repository(
            repository, (CONFIG,), revision
        )
    config = timm.models.get_pretrained_cfg(architecture)
    if config.hf_hub_id is None:
        return _missing_download(config.url)
    repository, _, revision = config.hf_hub_id.partition("@")
    named = config.hf_hub_filename
    return _missing_repository(repository, (named,) if named else WEIGHTS, revision or None)


def _missing_repository(
    repository: str, files: tuple[str, ...], revision: str | None
) -> str | None:
    there = (try_to_load_from_cache(repository, file, revision=revision) for file in files)
    if any(isinstance(path, str) for path in there):
        return None
    return f"{constants.HF_HUB_CACHE} (of the repository {repository}, {' or '.join(files)})"


def _missing_download(url: str) -> str | None:
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    return None if file.is_file() else str(file)
