"""The names of timm's architectures and weights, read without importing torch or timm.

The workflow checks names each time that it starts; importing timm would take longer than all the
rest of a run that finds nothing to do.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitals.errors import VitalsError, unknown

TRAINED, PRETRAINED = "trained", "pretrained"
HUB = "hf-hub:"
TORCHVISION = "torchvision:"
TORCHVISION_ROWS = 1000

# The modules of timm whose architectures carry one stream of tokens through blocks of one kind.
SUPPORTED = (
    "vision_transformer",
    "deit",
    "eva",
    "beit",
    "vision_transformer_relpos",
    "vision_transformer_hybrid",
    "vision_transformer_sam",
    "vitamin",
    "cait",
    "naflexvit",
)
MERGED = "its tokens are merged from stage to stage, so that no residual stream runs through"
TWO_STREAMS = "it has two streams of tokens beside each other, not one residual stream"
UNSUPPORTED = {
    "coat": MERGED,
    "davit": MERGED,
    "gcvit": MERGED,
    "hiera": MERGED,
    "hieradet_sam2": MERGED,
    "levit": MERGED,
    "maxxvit": MERGED,
    "mvitv2": MERGED,
    "nest": MERGED,
    "pit": MERGED,
    "pvt_v2": MERGED,
    "swin_transformer": MERGED,
    "swin_transformer_v2": MERGED,
    "swin_transformer_v2_cr": MERGED,
    "tiny_vit": MERGED,
    "twins": MERGED,
    "volo": MERGED,
    "crossvit": TWO_STREAMS,
    "tnt": TWO_STREAMS,
    "xcit": "its attention is between channels, not between tokens",
    "mlp_mixer": "it mixes tokens without attention",
}
OTHERWISE = "it is no Vision Transformer whose residual stream ViTals knows how to tap"

# What the study says elsewhere, or what would make another model than the one that is described.
RESERVED = {
    "cache_dir": "the environment says where downloads are kept",
    "checkpoint_path": "`weights` names the file",
    "device": "the machine's profile says it",
    "dtype": "weights are float32",
    "exportable": "the model is run as timm makes it",
    "features_only": "the whole model is needed",
    "no_jit": "the model is run as timm makes it",
    "pretrained": "`weights` says it",
    "pretrained_cfg": "`weights` says it",
    "pretrained_cfg_overlay": "`weights` says it",
    "pretrained_strict": "weights are loaded whole or not at all",
    "scriptable": "the model is run as timm makes it",
    "use_naflex": "the architecture says it",
}

ENTRYPOINT = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
CONFIGURED = re.compile(r"^    '(\w+)(?:\.([\w-]+))?\*?': (_\w*cfg)\(", re.MULTILINE)
MAKER = re.compile(r"^def (_\w*cfg)\(.*\n(?:(?:[ )].*)?\n)*", re.MULTILINE)
PLACED = re.compile(r"(?:hf_hub_id|url)='\w")
ROWS = re.compile(r"num_classes(?:=|': )(\d+)")
RENAMED = re.compile(r"^    '(\w+)':\s*'([\w.-]+)'", re.MULTILINE)
TORCHVISION_WEIGHTS = re.compile(r"^class (ViT_\w+)_Weights\(WeightsEnum\):", re.MULTILINE)
TORCHVISION_TAG = re.compile(r"^    (\w+) = Weights\(", re.MULTILINE)
HUB_NAME = re.compile(rf"{HUB}[\w-][\w.-]*/[\w-][\w.-]*@[\w-][\w./-]*")


def architectures() -> frozenset[str]:
    """Every architecture that timm registers."""
    return frozenset(_modules())


def tags(architecture: str) -> tuple[str, ...]:
    """The tags of the weights that timm publishes for an architecture, sorted.

    >>> tags("vit_small_patch16_224.dino")
    ('augreg_in1k', 'augreg_in21k', 'augreg_in21k_ft_in1k', 'dino')
    """
    name = architecture.partition(".")[0]
    found = _published(_modules()[name])
    return tuple(sorted(tag for family, tag in found if family == name))


def rows(name: str) -> int | None:
    """Rows of the classifier of published weights, by their name; None for those of a hub.

    >>> rows("vit_small_patch16_224.augreg_in21k"), rows("vit_small_patch16_224.dino")
    (21843, 0)
    """
    if name.startswith(HUB):
        return None
    if name.startswith(TORCHVISION):
        return TORCHVISION_ROWS
    family, _, tag = name.partition(".")
    return _published(_modules()[family])[family, tag]


def check_architecture(name: str, weights: str = TRAINED) -> None:
    """Raise VitalsError for an architecture that cannot be had with these weights, and say why.

    name: "family" or "family.tag" of timm, "torchvision:family.tag", or
    "hf-hub:organisation/name@revision"; weights: "trained", "pretrained" or the path of a file.
    Published weights need a tag, or a hub's name.

    >>> check_architecture("vit_tiny_patch16_224")
    >>> check_architecture("vit_small_patch16_224.dino", "pretrained")
    >>> check_architecture("hf-hub:timm/vit_small_patch16_224.dino@main", "pretrained")
    >>> check_architecture("torchvision:vit_b_16.IMAGENET1K_V1", "pretrained")
    """
    if name.startswith(HUB):
        _check_hub(name, weights)
        return
    if name.startswith(TORCHVISION):
        _check_torchvision(name, weights)
        return
    family, _, tag = name.partition(".")
    module = _modules().get(family)
    if module is None:
        raise _unknown_architecture(name, family)
    if module not in SUPPORTED:
        raise VitalsError(
            f"architecture '{name}' is not supported: {UNSUPPORTED.get(module, OTHERWISE)}; "
            f"expected one of timm's modules {', '.join(SUPPORTED)}"
        )
    known = tags(family)
    if tag and tag not in known:
        raise unknown(f"tag of {family}", tag, known)
    if weights == PRETRAINED and not tag:
        raise _untagged(name, known)


def check_options(options: Mapping[str, Any], weights: str = TRAINED) -> None:
    """Raise VitalsError for an option of timm's that the study says elsewhere, and say where.

    >>> check_options({"img_size": 384})
    """
    reserved = dict(RESERVED)
    if weights == TRAINED:
        reserved["num_classes"] = "a model that is trained here has the dataset's classes"
    for key in options:
        if key in reserved:
            raise VitalsError(f"options.{key} = {options[key]!r} is no option: {reserved[key]}")


def _check_hub(name: str, weights: str) -> None:
    if "@" not in name:
        raise VitalsError(
            f"architecture '{name}' names no revision: expected {HUB}organisation/name@revision, "
            "its commit for a result that can be repeated"
        )
    if not HUB_NAME.fullmatch(name):
        raise VitalsError(
            f"architecture '{name}': expected {HUB}organisation/name@revision, or timm's family.tag"
        )
    if weights != PRETRAINED:
        raise VitalsError(
            f"architecture '{name}' comes with its weights: expected weights: {PRETRAINED}, "
            f"found '{weights}'"
        )


def _check_torchvision(name: str, weights: str) -> None:
    family, _, tag = name.removeprefix(TORCHVISION).partition(".")
    known = torchvision_tags()
    if family not in known:
        raise unknown("Vision Transformer of torchvision:", family, known)
    if tag not in known[family]:
        raise unknown(f"weights of {TORCHVISION}{family}:", tag, known[family])
    if weights == TRAINED:
        raise VitalsError(
            f"architecture '{name}' names weights: expected weights: {PRETRAINED}, or the path of "
            "their file; to train one here, take timm's architecture"
        )


def _unknown_architecture(name: str, family: str) -> VitalsError:
    now = _renamed().get(family)
    if now is not None:
        family, _, tag = now.partition(".")
        today = now if not tag or tag in tags(family) else f"{family}.{'|'.join(tags(family))}"
        return VitalsError(f"architecture '{name}' is timm's old name: expected '{today}'")
    if "/" in name or ":" in name:
        return VitalsError(
            f"unknown architecture '{name}': expected timm's family.tag, {TORCHVISION}family.tag, "
            f"or {HUB}organisation/name@revision"
        )
    return unknown("architecture", name, architectures())


def _untagged(name: str, known: tuple[str, ...]) -> VitalsError:
    if not known:
        return VitalsError(
            f"architecture '{name}' has no published weights: expected weights: {TRAINED}, or the "
            "path of a file"
        )
    return VitalsError(
        f"architecture '{name}' does not say which of its weights: expected {name}.tag with one of "
        f"the tags {', '.join(known)}"
    )


@lru_cache
def torchvision_tags() -> dict[str, tuple[str, ...]]:
    """The weights that torchvision publishes for each of its Vision Transformers."""
    package = find_spec("torchvision")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "models", "vision_transformer.py")
    _, *parts = TORCHVISION_WEIGHTS.split(file.read_text(encoding="utf-8"))
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name.lower(): tuple(TORCHVISION_TAG.findall(text)) for name, text in pairs}


def _sources(module: str = "*") -> Iterator[tuple[str, str]]:
    """The modules of timm that register architectures, or one of them: (name, text)."""
    package = find_spec("timm")
    assert package is not None and package.submodule_search_locations
    for file in sorted(Path(package.submodule_search_locations[0], "models").glob(f"{module}.py")):
        yield file.stem, file.read_text(encoding="utf-8")


@lru_cache
def _modules() -> dict[str, str]:
    """The module of timm that registers each architecture."""
    return {name: module for module, text in _sources() for name in ENTRYPOINT.findall(text)}


@lru_cache
def _published(module: str) -> dict[tuple[str, str], int]:
    """The weights that a module of timm configures and says where to get, and their rows.

    By (architecture, tag).
    """
    text = re.sub(r"#.*", "", dict(_sources(module))[module])
    makers = {maker[1]: maker[0] for maker in MAKER.finditer(text)}
    found = {}
    entries = list(CONFIGURED.finditer(text))
    ends = [entry.start() for entry in entries[1:]]
    for entry, end in zip(entries, [*ends, len(text)], strict=True):
        architecture, tag, maker = entry.groups()
        body = text[entry.end() : end].partition("\n}")[0]
        if PLACED.search(makers[maker]) or PLACED.search(body):
            said = ROWS.search(body) or ROWS.search(makers[maker])
            found[architecture, tag or ""] = int(said[1])
            if "use quickgelu" in body:  # the module's own loop configures these a second time
                again = architecture.replace("_clip_", "_clip_quickgelu_")
                found[again, tag or ""] = int(said[1])
    return found


@lru_cache
def _renamed() -> dict[str, str]:
    """What timm calls today, with its tag, each architecture that it has renamed."""
    found: dict[str, str] = {}
    for _, text in _sources():
        _, _, deprecations = text.partition("\nregister_model_deprecations(")
        found.update(RENAMED.findall(deprecations))
    return found
