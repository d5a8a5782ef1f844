"""Datasets built in memory, named and shaped like a store's, for the known answers."""

import numpy as np
import xarray as xr


def tokens_dataset(layers, *, prefix=(), label=None, split=None, names=None, depth=None):
    """The token tier, from one array (image, token, channel) a layer; `prefix`: first kinds."""
    values = np.stack([np.asarray(layer) for layer in layers])
    _, images, tokens, _ = values.shape
    patches = tokens - len(prefix)
    side = int(patches**0.5) if int(patches**0.5) ** 2 == patches else None
    columns = side or patches
    grid = np.arange(patches)
    fill = [-1] * len(prefix)
    return xr.Dataset(
        {"tokens": (("layer", "image", "token", "channel"), values)},
        coords={
            "layer": names or layer_names(len(values)),
            "depth": ("layer", np.arange(len(values)) if depth is None else depth),
            "token_kind": ("token", [*prefix, *["patch"] * patches]),
            "row": ("token", [*fill, *(grid // columns)]),
            "column": ("token", [*fill, *(grid % columns)]),
            **image_coordinates(images, label, split),
        },
    )


def image_coordinates(images, label=None, split=None):
    """label, split and image_id over `image`; by default one class and a first half to fit."""
    default_split = np.where(np.arange(images) < images // 2, "fit", "test")
    return {
        "label": ("image", np.zeros(images, int) if label is None else np.asarray(label)),
        "split": ("image", default_split if split is None else np.asarray(split)),
        "image_id": ("image", [f"image-{i}" for i in range(images)]),
    }


def layer_names(layers):
    """embed, position, block.0, block.1 ... as a store names them."""
    return ["embed", "position", *(f"block.{i}" for i in range(layers))][:layers]


def every_tap(blocks, final_norm=True):
    """The names and depths of all taps that a model can have."""
    taps = {"embed": 0.0, "norm_pre": 0.5, "position": 1.0}
    for i in range(blocks):
        taps |= {f"block.{i}.attention": i + 1.5, f"block.{i}": i + 2.0}
    if final_norm:
        taps["norm"] = blocks + 2.0
    return list(taps), np.array(list(taps.values()))


def pooled_dataset(layers, label, *, split=None, names=None, **parameters):
    """The pooled tier, from one {feature: array (image, channel)} a layer.

    parameters: head_weight (class, channel), head_bias (class), norm_scale, norm_shift (channel),
    logits (image, class), where the model has them.
    """
    dims = {
        "head_weight": ("class", "channel"),
        "head_bias": ("class",),
        "logits": ("image", "class"),
    }
    values = np.stack([np.stack(list(layer.values()), axis=1) for layer in layers])
    images = image_coordinates(len(label), label, split)
    if split is None:
        del images["split"]
    return xr.Dataset(
        {
            "pooled": (("layer", "image", "feature", "channel"), values),
            **{name: (dims.get(name, ("channel",)), p) for name, p in parameters.items()},
        },
        coords={
            "layer": names or layer_names(len(values)),
            "feature": list(layers[0]),
            **images,
        },
    )
