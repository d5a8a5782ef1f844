"""The axes that metrics share: the taps over depth, the roles of tokens, the splits of images."""

import re
import warnings
from collections.abc import Iterator

import numpy as np
import xarray as xr

from vitals.errors import VitalsError
from vitals.metrics.results import absences

IMAGES_PER_BLOCK = 256
# float64 numbers of a block of images, 64 MiB (and a few working copies)
NUMBERS_PER_BLOCK = 2**23
PLACES = {"tap": "layer", "block": "block"}  # what an error calls a place, and its coordinate
NORM = "norm"  # the tap after the final norm
# The taps before the first block; block i has i + 2, and its attention half a block less.
FIRST_DEPTHS = {"embed": 0, "norm_pre": 0.5, "position": 1}
BLOCK = re.compile(r"block\.(\d+)(\.attention)?")


def require(dataset: xr.Dataset, *names: str) -> None:
    """Raise a `VitalsError` that names what a dataset lacks, and why where it says so itself."""
    missing = [name for name in names if name not in dataset.variables]
    if missing:
        reasons = absences(dataset)
        lacking = [f"{name} ({reasons[name]})" if name in reasons else name for name in missing]
        found = ", ".join(map(str, dataset.variables)) or "nothing"
        raise VitalsError(f"the dataset lacks {', '.join(lacking)}; it holds {found}")


def depth(dataset: xr.Dataset) -> xr.DataArray:
    """The coordinate `depth` over `layer`, in blocks.

    Where the dataset does not give it, the names of the taps do ("embed" 0, "norm_pre" ½,
    "position" 1, "block.i" i + 2, "block.i.attention" i + 1½, "norm" one beyond the last), and of
    taps with other names or none their count.
    """
    if "depth" in dataset.coords:
        return dataset["depth"]
    names = dataset["layer"].values.astype(str).tolist() if "layer" in dataset.coords else []
    stream = [_depth_of(name) for name in names if name != NORM]
    if not names or None in stream:
        values = np.arange(dataset.sizes["layer"])
    else:
        beyond = max(stream, default=-1) + 1
        values = np.array([beyond if name == NORM else _depth_of(name) for name in names])
    coords = {"layer": dataset["layer"]} if names else None
    return xr.DataArray(values, coords, dims="layer", name="depth")


def _depth_of(tap: str) -> float | None:
    """The depth of a tap on the residual stream by its name; None for a name that is none."""
    block = BLOCK.fullmatch(tap)
    if block is None:
        return FIRST_DEPTHS.get(tap)
    return int(block[1]) + (1.5 if block[2] else 2)


def block_names(dataset: xr.Dataset) -> np.ndarray:
    """The tap that each block writes, "block.i": (block,)."""
    return np.array([f"block.{number}" for number in dataset["block"].values])


def block_depth(dataset: xr.Dataset) -> xr.DataArray:
    """The depth of each block over `block`: that of the tap "block.i" which it writes."""
    if "depth" in dataset.coords and dataset["depth"].dims == ("block",):
        return dataset["depth"]
    values = np.array([_depth_of(name) for name in block_names(dataset)])
    return xr.DataArray(values, dims="block", name="depth")


def relative_depth(depth: xr.DataArray) -> xr.DataArray:
    """depth / the depth of the last block: 0 at the first tap, 1 at the last of the stream.

    Tap "norm", where the coordinate `layer` names one, lies just beyond 1: it is no block.
    depth (..., layer) or (..., block), of one or several models.
    """
    stream = depth
    if "layer" in depth.coords:
        stream = depth.isel(layer=np.flatnonzero(depth["layer"].values != NORM))
    return (depth / stream.max(depth.dims[-1])).rename("relative_depth")


def stream_taps(dataset: xr.Dataset) -> xr.Dataset:
    """The taps on the residual stream: all but "norm", which rescales every token.

    At equal depth, "norm" of one model would stand beside a block of a deeper one.
    """
    if "layer" not in dataset.coords:
        return dataset
    return dataset.isel(layer=np.flatnonzero(dataset["layer"].values != NORM))


def token_indices(dataset: xr.Dataset, kind: str) -> np.ndarray:
    """Positions along `token` of the tokens of one kind: "cls", "patch", "register", ...

    A dataset without `token_kind` is taken to hold patches only, with a warning.
    """
    if "token_kind" not in dataset.coords:
        warnings.warn("no coordinate token_kind: every token is taken as a patch", stacklevel=3)
        return np.arange(dataset.sizes["token"] if kind == "patch" else 0)
    return np.flatnonzero(dataset["token_kind"].values == kind)


def patch_embedding(dataset: xr.Dataset, metric: str) -> tuple[xr.DataArray, np.ndarray]:
    """The patch tokens at the tap "embed", (image, token, channel), and their places in `token`.

    Raises a VitalsError that names the metric where the tap or a second patch token is missing.
    """
    require(dataset, "tokens", "layer")
    patches = token_indices(dataset, "patch")
    if patches.size < 2:
        raise VitalsError(f"{metric} needs at least 2 patch tokens, found {patches.size}")
    layers = dataset["layer"].values.tolist()
    if "embed" not in layers:
        raise VitalsError(f"{metric} needs a layer 'embed', found {', '.join(map(str, layers))}")
    return dataset["tokens"].isel(layer=layers.index("embed"), token=patches), patches


def split_indices(dataset: xr.Dataset, split: str) -> np.ndarray:
    """Positions along `image` of one split, "fit" or "test"; a VitalsError where there is none."""
    require(dataset, "split")
    indices = np.flatnonzero(dataset["split"].values == split)
    if not indices.size:
        raise VitalsError(
            f"no image is in the split '{split}': the metric needs fit and test images"
        )
    return indices


def image_coordinates(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """The coordinates over `image` alone, to put on a per-image result."""
    return {str(name): c for name, c in dataset.coords.items() if c.dims == ("image",)}


def layer_coordinates(dataset: xr.Dataset) -> dict[str, xr.DataArray]:
    """The coordinates over `layer` (its names, and `depth`), to put on a per-layer result."""
    named = {str(name): c for name, c in dataset.coords.items() if c.dims == ("layer",)}
    return {**named, "depth": depth(dataset)}


def image_blocks(
    array: xr.DataArray, images_per_block: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices along `image` with their values, image first: one block in memory at a time.

    The blocks are the same however the array is stored, and so is what is summed over them. A chunk
    is read once and whole, also where two blocks share it.
    images_per_block: by default as many as are `NUMBERS_PER_BLOCK`.
    Raises a VitalsError that names the tap and the image of a number that is not finite: that of a
    store that was torn or never filled.
    """
    array = array.transpose("image", ...)
    images = array.sizes["image"]
    size = images_per_block or max(1, NUMBERS_PER_BLOCK * images // max(1, array.size))
    chunks = _chunks(array, size)
    held, read = np.empty((0, *array.shape[1:]), array.dtype), 0
    for start in range(0, images, size):
        stop = min(start + size, images)
        parts = [held]
        while read < stop:
            chunk = next(chunks)
            parts.append(array.isel(image=chunk).values)
            require_finite(array, parts[-1], chunk.start)
            read = chunk.stop
        parts = [part for part in parts if len(part)]
        values = parts[0] if len(parts) == 1 else np.concatenate(parts)
        held = values[stop - start :]
        yield slice(start, stop), values[: stop - start]


def _chunks(array: xr.DataArray, size: int) -> Iterator[slice]:
    """The chunks of an array along `image`; blocks of `size` of one that has none."""
    stored = array.chunksizes.get("image") if array.chunks else None
    bounds = np.cumsum(stored) if stored else np.arange(size, array.sizes["image"] + size, size)
    start = 0
    for stop in bounds.tolist():
        yield slice(start, stop)
        start = stop


def require_finite(array: xr.DataArray, values: np.ndarray, start: int = 0) -> None:
    """Raise a `VitalsError` that names the tap and the image of the first NaN or infinity.

    values: those of `array`, image first, from image `start` on.
    """
    if _all_finite(values):
        return
    image, *others = np.argwhere(~np.isfinite(values))[0]
    of = array.transpose("image", ...)[start + image, *others]
    places = [f" of {what} {of[dim].values}" for what, dim in PLACES.items() if dim in of.coords]
    named = of["image_id"].values if "image_id" in of.coords else f"number {start + image}"
    raise VitalsError(
        f"the {array.name or 'values'}{''.join(places)} are not all finite: image {named} holds "
        "NaN or infinity, as a store does that is torn or was never filled"
    )


def _all_finite(values: np.ndarray) -> bool:
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    # by the exponent, all ones, which is nine times as fast as to ask each number
    magnitude = np.ascontiguousarray(values).view(np.uint16) & 0x7FFF
    return bool(magnitude.max(initial=0) < 0x7C00)
