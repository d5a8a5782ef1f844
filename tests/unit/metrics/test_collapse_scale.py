"""Neural collapse at 1000 classes: what width and numbers do, and that nothing grows with C²."""

import numpy as np
import pytest

from activation_datasets import pooled_dataset
from collapse_features import (
    CHUNKED,
    QUICK,
    SIGMA,
    STORAGE,
    TOLERANCE,
    C,
    D,
    collapsed,
    of,
    simplex,
)
from vitals.metrics import class_pairs, class_regime, class_resamples, class_statistics, collapse
from vitals.metrics.class_collapse import Resampling, TapFeature
from vitals.metrics.class_statistics import Moments
from vitals.metrics.summary import table

IMAGENET = 1000
WIDTHS = {384: 1.9, 768: 11, 1000: 2550, 1024: 147}  # and nc1_pinv, as a trial measured it
NOISE = 3.3  # of a channel of an image over that of a class mean, in that trial


def random_classes(channels, seed=0):
    """Random class means, and noise of the same strength in all directions that leaves them so."""
    generator = np.random.default_rng(seed)
    means = generator.standard_normal((IMAGENET, channels), dtype=np.float32)
    half = generator.standard_normal((IMAGENET, 2, channels), dtype=np.float32)
    noise = np.sqrt(NOISE * 3 / 4) * np.concatenate([half, -half], axis=1)  # divisor n_c − 1
    return collapsed(means, noise)


@pytest.mark.filterwarnings("ignore:nc")
@pytest.mark.parametrize("channels", WIDTHS)
def test_nc1_pinv_follows_the_width_at_the_same_signal_to_noise(channels):
    """q tr(Σ_B⁺)/C of a Wishart matrix: qD/(C−2−D) or q(C−1)/(D−C); beside C−1 without a mean."""
    params = {"bootstrap_samples": 1, "pinv_samples": 0, "tolerance": 1e-9}
    found = float(of(*random_classes(channels), np.float32, params=params)["nc1_pinv"])
    if channels == IMAGENET:
        assert WIDTHS[channels] / 5 < found < WIDTHS[channels] * 5
        return
    narrow = channels < IMAGENET - 1
    wishart = channels / (998 - channels) if narrow else 999 / (channels - 1000)
    assert found == pytest.approx(NOISE * wishart, rel=0.02 if narrow else 0.2)
    assert found == pytest.approx(WIDTHS[channels], rel=0.15 if narrow else 0.25)


@STORAGE
@CHUNKED
def test_a_quotient_far_below_a_millionth_survives(storage, chunks):
    """Squares of deviations, never differences of squares."""
    corners = np.concatenate([3 * np.eye(C), np.zeros((C, D - C))], axis=1)
    noise = np.zeros((C, 10, D))
    noise[:, :, -1] = 1e-4 * np.tile([1, -1], 5)
    x, label = collapsed(corners, noise)
    found = float(of(x, label, storage, chunks=chunks)["nc1_quotient"])
    within, spread = 1e-8 * 10 / 9, 9 * (1 - 1 / C)
    assert found == pytest.approx(within / (spread - within / 10), rel=TOLERANCE[storage] + 1e-6)

    single = x.astype(np.float32)
    of_class = single.reshape(C, 10, D)
    careless = np.square(of_class).sum(dtype=np.float32) / single.shape[0]
    careless -= np.square(of_class.mean(axis=1)).sum(dtype=np.float32) / C
    assert abs(float(careless) / 1e-8 - 1) > 0.5


def moments(draws=3, classes=30, channels=12):
    generator = np.random.default_rng(0)
    means = generator.standard_normal((draws, classes, channels))
    return Moments(means, generator.random((draws, classes)), np.full(classes, 9.0))


def test_pairs_of_classes_are_seen_in_tiles(monkeypatch):
    """Whatever the tile, the formulas over all pairs at once."""
    given = moments()
    means, pairs = given.centered_means, ~np.eye(30, dtype=bool)
    gram = means @ means.mT
    squares = np.einsum("daa->da", gram)
    apart = squares[:, :, None] + squares[:, None] - 2 * gram
    variance = (given.variances[:, :, None] + given.variances[:, None]) / 2
    unit = means / np.sqrt(squares)[:, :, None]
    simplex_gram = (np.eye(30) - 1 / 30) / np.sqrt(29)
    norm = np.linalg.norm(gram, axis=(1, 2), keepdims=True)
    expected = {
        "nc1_cdnv": (variance / np.where(pairs, apart, 1))[:, pairs].mean(axis=1),
        "nc2_equiangular": (unit @ unit.mT)[:, pairs].std(axis=1),
        "nc2_etf_gap": np.linalg.norm(gram / norm - simplex_gram, axis=(1, 2)),
    }
    for tile in (1, 70, 10**6):
        monkeypatch.setattr(class_pairs, "TILE", tile)
        found = class_pairs.pair_statistics(given)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-12)


def test_coinciding_class_means_have_no_distance_to_normalise_by():
    given = moments()
    given.means[1, 4] = given.means[1, 20]
    assert np.isnan(class_pairs.pair_statistics(given)["nc1_cdnv"]).tolist() == [False, True, False]


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    x, label = collapsed()
    images = collapse.class_split(pooled_dataset([{"cls": x}], label))
    resampling = Resampling(9, 4, 0)
    whole = TapFeature.of(x, images).scatter(resampling, 1e-6)
    monkeypatch.setattr(class_statistics, "DRAWN_VALUES", 2 * C * D)
    monkeypatch.setattr(class_resamples, "DRAWN_IMAGES", 1)
    one_by_one = TapFeature.of(x, images).scatter(resampling, 1e-6)
    for name, values in whole.items():
        np.testing.assert_allclose(one_by_one[name], values, rtol=1e-12)


@pytest.mark.parametrize("storage", [np.float64, np.float32])
def test_torch_agrees_with_numpy(storage):
    """What an accelerator computes, to the rounding of the stored precision."""
    torch = pytest.importorskip("torch")
    x, label = collapsed(noise=SIGMA * np.random.default_rng(2).standard_normal((C, 9, D)))
    x = (x + 5).astype(storage)
    images = collapse.class_split(pooled_dataset([{"cls": x}], label))
    weight = np.random.default_rng(0).standard_normal((C, D))
    found = [
        seen.scatter(Resampling(6, 6, 0), 1e-6) | seen.duality(Resampling(6, 6, 0), weight)
        for seen in (TapFeature.of(x, images), TapFeature.of(x, images, where=torch.device("cpu")))
    ]
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=100 * np.finfo(storage).eps)


def test_the_floors_are_those_of_the_width():
    floors = [class_regime.etf_floor(channels, IMAGENET) for channels in (384, 768, 1024)]
    assert floors == pytest.approx([0.8718, 0.4964, 0], abs=1e-4)
    frame = np.concatenate([np.eye(8), -np.eye(8)])  # the tightest of 16 vectors in 8 dimensions
    found = class_pairs.pair_statistics(Moments(frame[None], np.ones((1, 16)), np.full(16, 9.0)))
    assert found["nc2_etf_gap"] == pytest.approx(class_regime.etf_floor(8, 16))
    assert found["nc2_equiangular"] == pytest.approx(class_regime.equiangular_floor(8, 16))


@pytest.mark.filterwarnings("ignore:nc")
@pytest.mark.parametrize(
    ("classes", "each", "channels", "ruled"),
    [
        (100, 8, 99, {"nc1_pinv": "without bound"}),
        (100, 8, 76, {"nc1_pinv": "about 4 times", "nc2_etf_gap": "at least 0.4977"}),
        (100, 8, 20, {"nc2_equiangular": "for means of equal norm", "nc2_etf_gap": "at least"}),
        (2, 8, 20, {"nc2_equinorm": "0 whatever", "nc2_etf_excess": "0 whatever"}),
        (10, 3, 64, {"nc1_cdnv": "of 3.0 images", "nc3_alignment": "of 3.0 images"}),
        (10, 8, 64, {}),
    ],
)
def test_what_the_numbers_rule_is_said_beside_it_in_the_summary(classes, each, channels, ruled):
    generator = np.random.default_rng(0)
    x, label = collapsed(
        generator.standard_normal((classes, channels)),
        generator.standard_normal((classes, each, channels)),
    )
    head, taps = {"head_weight": np.eye(classes, channels)}, ["block.0", "norm"]
    result = collapse.compute(pooled_dataset([{"cls": x}] * 2, label, names=taps, **head), **QUICK)
    rows = table({("vit", "collapse"): result}, study="s")
    rows = rows[rows["layer"] == "norm"].set_index("variable")
    for name, words in ruled.items():
        assert words in rows.loc[name, "note"]
        assert words in result.attrs["regime_warning"]
    assert rows.loc["nc1_quotient", "note"] == ""
    assert bool(ruled) == ("regime_warning" in result.attrs)


def test_the_mean_cosine_of_centred_means_is_not_shown():
    """It is −1/(C−1) of any means of equal norm."""
    result = of(*collapsed(simplex()))
    values = [float(array) for array in result.data_vars.values() if not array.dims]
    assert not np.isclose(values, -1 / (C - 1), atol=1e-3).any()
