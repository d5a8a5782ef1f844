"""Class means and noise whose neural collapse is known, and the metric of one tap of them."""

import numpy as np
import pytest

from activation_datasets import pooled_dataset
from vitals.metrics import collapse

C, D, RADIUS, SIGMA, EACH = 20, 64, 3.0, 0.5, 80
TOLERANCE = {np.float64: 1e-9, np.float32: 1e-5, np.float16: 2e-3}
STORAGE = pytest.mark.parametrize("storage", list(TOLERANCE))
CHUNKED = pytest.mark.parametrize("chunks", [None, {"image": 7, "channel": 11}])
QUICK = {"bootstrap_samples": 20, "pinv_samples": 5}


def rotation(channels=D, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((channels, channels)))[0]


def simplex(classes=C, channels=D, radius=RADIUS, seed=0):
    """Class means (class, channel): a simplex ETF about zero, in a random direction."""
    centered = np.eye(classes) - 1 / classes
    unit = centered / np.linalg.norm(centered[0])
    return radius * unit @ rotation(max(channels, classes), seed)[:classes, :channels]


def exact_noise(classes=C, channels=D, each=EACH, sigma=SIGMA, seed=1):
    """Noise whose mean is 0 and whose covariance (divisor n−1) is σ²I exactly, in each class."""
    noise = np.random.default_rng(seed).standard_normal((classes, each, channels))
    noise -= noise.mean(axis=1, keepdims=True)
    return np.linalg.qr(noise)[0] * sigma * np.sqrt(each - 1)


def collapsed(means=None, noise=None):
    """Features (image, channel) and labels of class means plus noise (class, image, channel)."""
    means = simplex() if means is None else means
    noise = exact_noise() if noise is None else noise
    label = np.repeat(np.arange(len(means)), noise.shape[1])
    return (means[:, None] + noise).reshape(-1, means.shape[1]), label


def of(
    x, label, storage=np.float64, split=None, name="norm", params=QUICK, chunks=None, **parameters
):
    layers = [{"cls": np.asarray(x).astype(storage)}]
    dataset = pooled_dataset(layers, label, split=split, names=[name], **parameters)
    dataset = dataset.chunk(chunks) if chunks else dataset
    return collapse.compute(dataset, **params).isel(layer=0, feature=0)


def halves(x, label):
    return np.where(np.arange(len(label)) % 2, "test", "fit")
