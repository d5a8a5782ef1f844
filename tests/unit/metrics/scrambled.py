"""Patch tokens whose recoverability is known, for the scrambling tests."""

import numpy as np

from activation_datasets import tokens_dataset
from vitals.metrics import scrambling

TOKENS, CHANNELS = 16, 6


def gaussian(images, seed=0, tokens=TOKENS, channels=CHANNELS):
    return np.random.default_rng(seed).standard_normal((images, tokens, channels))


def autoregressive(images, correlation=0.9, **shape):
    """Unit variance, correlated along the token axis."""
    tokens = gaussian(images, **shape)
    for i in range(1, tokens.shape[1]):
        fresh = np.sqrt(1 - correlation**2) * tokens[:, i]
        tokens[:, i] = correlation * tokens[:, i - 1] + fresh
    return tokens


def mixed(mixing, tokens, rotation=None):
    """Each image's tokens mixed by (token, token), and their channels turned."""
    out = np.einsum("ij,bjd->bid", mixing, tokens)
    return out if rotation is None else out @ rotation


def orthogonal(size, seed=1):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def partly_averaged(share, tokens=TOKENS):
    """(1−a) I + a/N: each token moves a share towards the image's mean."""
    return (1 - share) * np.eye(tokens) + share / tokens


def dataset_of(embed, *layers, fit_share=0.6, storage=np.float64, **kinds):
    """Tap "embed", then the layers, with the first images to fit."""
    images = len(embed)
    split = np.where(np.arange(images) < fit_share * images, "fit", "test")
    names = ["embed", *(f"block.{i}" for i in range(len(layers)))]
    values = [np.asarray(layer, dtype=storage) for layer in (embed, *layers)]
    return tokens_dataset(values, split=split, names=names, **kinds)


def measure(embed, layer, *, null="none", nulls=("none",), storage=np.float64, **params):
    """r2_self, r2_all and isi of one layer, under one null."""
    fit_share = params.pop("fit_share", 0.6)
    dataset = dataset_of(embed, layer, storage=storage, fit_share=fit_share)
    params = {"bootstrap_samples": 5, **params}
    result = scrambling.compute(dataset, nulls=nulls, **params).isel(layer=1)
    chosen = result.sel(null=null)
    return [float(chosen[name]) for name in ("r2_self", "r2_all", "isi")]
