"""Datasets built in memory, named and shaped like a store's, for the known answers."""

import numpy as np
import torch
import xarray as xr

from vitals.activations import attention

# As a store has them, and so that two parts of each dim are needed, which metrics take as a whole.
ODD_CHUNKS = ("store", "uneven")


def chunked(dataset, kind):
    """The dataset lazily, in one of `ODD_CHUNKS`, whose last parts are shorter."""
    if kind == "store":
        sizes = {dim: {"layer": 1, "block": 1, "image": 5}.get(dim, -1) for dim in dataset.dims}
    else:
        sizes = {dim: 3 * size // 5 + 1 for dim, size in dataset.sizes.items()}
    return dataset.chunk(sizes)


def computed(compute, dataset, **params):
    """What a metric computes in memory, and the same, to rounding, from each of `ODD_CHUNKS`."""
    result = compute(dataset, **params)
    for kind in ODD_CHUNKS:
        lazy = compute(chunked(dataset, kind), **params)
        xr.testing.assert_allclose(lazy, result, rtol=1e-6, atol=1e-7)
    return result


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


def attention_dataset(blocks, *, prefix=("cls",), storage=np.float64, images=2):
    """The token tier's attention, from one array (query, key) or (image, query, key) a block."""
    values = [b if np.ndim(b) == 3 else np.broadcast_to(b, (images, *np.shape(b))) for b in blocks]
    values = np.stack(values).astype(storage)
    tokens = values.shape[-1]
    roles = tokens_dataset([np.zeros((values.shape[1], tokens, 1))], prefix=prefix)
    return xr.Dataset(
        {"attention": (("block", "image", "query", "key"), values)},
        coords=roles.drop_vars(["layer", "depth", "tokens"]).coords,
    )


def random_attention(*shape, tokens=10, seed=0):
    """Attention maps (..., query, key) of random logits."""
    logits = 2 * np.random.default_rng(seed).standard_normal((*shape, tokens, tokens))
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def small_study(images=64, blocks=4, classes=3, channels=6):
    """Both tiers of one model that every metric applies to: (tokens, pooled).

    A [CLS], a register and 3 × 3 patches; classes that part with depth while tokens mix.
    """
    generator = np.random.default_rng(0)
    prefix, patches, heads = ("cls", "register"), 9, 2
    label = np.arange(images) % classes
    size = (len(prefix) + patches, channels)
    embed = generator.standard_normal((images, *size)) + 0.5
    embed[:, : len(prefix)] = generator.standard_normal((len(prefix), channels))
    position = 0.5 * generator.standard_normal(size)
    maps = random_attention(blocks, images, heads, tokens=size[0])
    centres = generator.standard_normal((classes, 1, channels))
    states = [embed, embed + position]
    for block in maps.mean(axis=2):
        states.append(0.7 * states[-1] + 0.5 * block @ states[-1] + 0.2 * centres[label])
    scale, shift = generator.uniform(0.5, 1.5, channels), 0.1 * generator.standard_normal(channels)
    deviation = np.sqrt(states[-1].var(axis=-1, keepdims=True) + 1e-6)
    normed = (states[-1] - states[-1].mean(axis=-1, keepdims=True)) / deviation * scale + shift
    names = [*layer_names(blocks + 2), "norm"]
    split = np.where(np.arange(images) // classes % 3 < 2, "fit", "test")

    tokens = tokens_dataset(
        [*states, normed], prefix=prefix, label=label, split=split, names=names
    ).assign(
        attention=(("block", "image", "query", "key"), maps.mean(axis=2)),
        position_embedding=(("token", "channel"), position),
    )
    weight = centres[:, 0] - centres.mean(axis=0)
    features = [
        {"cls": x[:, 0], "patch_mean": x[:, len(prefix) :].mean(axis=1)}
        for x in tokens["tokens"].values
    ]
    pooled = pooled_dataset(
        features,
        label,
        split=split,
        names=names,
        head_weight=weight,
        head_bias=np.zeros(classes),
        norm_scale=scale,
        norm_shift=shift,
        logits=features[-1]["cls"] @ weight.T,
    ).assign_coords(depth=tokens["depth"])
    roles = attention.TokenRoles.of(*(tokens[c].values for c in ("token_kind", "row", "column")))
    for name, values in attention.head_summaries(torch.from_numpy(maps), roles).items():
        pooled[f"attention_{name}"] = ("block", "image", "head"), values.numpy()
    return tokens, pooled


REPLACED = [f"{tokens}_{by}" for tokens in ("cls", "patch") for by in ("mean", "other", "zero")]
AT_BLOCKS = ["to_cls_cut", "from_cls_cut", "attention_off", "block_skipped", "exit"]


def intervened_dataset(blocks=4, *, images=18, label=None, kinds=None, seed=0):
    """Scores of random answers under each change, as passes with one change give them."""
    random = np.random.default_rng(seed)
    places = ["position", *(f"block.{number}" for number in range(blocks))]
    kinds = [*REPLACED, *AT_BLOCKS] if kinds is None else kinds
    outer = {
        "": {},
        "_by_strength": {"strength": [0.0, 1.0, 2.0]},
        "_by_control": {"control": ["random_field", "shuffled_rows", "mean_only"]},
        "_by_place": {"kind": kinds, "place": places},
    }
    dataset = xr.Dataset(
        coords={
            "place_depth": ("place", np.arange(1, blocks + 2)),
            "tap": places,
            "label": ("image", np.arange(images) % 3 if label is None else label),
            "image_id": ("image", [f"image-{number}" for number in range(images)]),
            **{dim: values for of in outer.values() for dim, values in of.items()},
        }
    )
    for ending, dims in outer.items():
        shape = [len(values) for values in dims.values()]
        scores = random.uniform(size=(*shape, images))
        cosine = random.uniform(-0.1, 0.5, (*shape, len(places), images))
        if ending == "_by_place":
            absent = [kind in AT_BLOCKS for kind in kinds]
            scores[absent, 0] = cosine[absent, 0] = np.nan
        correct = np.where(np.isnan(scores), np.nan, scores > 0.4)
        dataset[f"correct{ending}"] = (*dims, "image"), correct
        dataset[f"probability{ending}"] = (*dims, "image"), scores
        dataset[f"centered_cosine{ending}"] = (*dims, "tap", "image"), cosine
    shares = (1 + np.arange(blocks)) / blocks
    return dataset.assign(exit_compute=("place", np.array([np.nan, *shares])))
