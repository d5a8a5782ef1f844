"""The fit that scrambling rests on: its optimum, its penalty, its two ways to read moments."""

import numpy as np
import pytest

from scrambled import gaussian, mixed, orthogonal, partly_averaged
from vitals.metrics.token_mixing import cross_validate, fit, held_out_error
from vitals.metrics.token_moments import SecondMoments, StreamedMoments

IMAGES, N, D = 80, 5, 3


class Pairs:
    tokens, channels = N, D

    def __init__(self, seed=0, noise=0.5):
        z = gaussian(IMAGES, seed, N, D)
        layer = mixed(partly_averaged(0.6, N), z, orthogonal(D))
        x = layer + noise * gaussian(IMAGES, seed + 1, N, D)
        self.x, self.z = x - x.mean(axis=0), z - z.mean(axis=0)

    def blocks(self, images):
        for block in np.array_split(images, 3):
            yield self.x[block], self.z[block]


def moments_of(kind, images=IMAGES, **pairs):
    return kind.of(Pairs(**pairs), np.arange(images))


def penalised_error(pairs, maps, mixing, penalty):
    context = [m @ (pairs.x @ w) for m, w in zip(mixing, maps[1:], strict=True)]
    error = np.square(pairs.z - pairs.x @ maps[0] - sum(context)).sum()
    for m, w in zip(mixing, maps[1:], strict=True):
        scale = np.square(pairs.x @ w).sum() / N
        error += penalty * scale * np.square(m - np.diag(np.diag(m))).sum()
    return error


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_no_change_of_any_part_lowers_the_penalised_error(penalty, rank):
    pairs, generator = Pairs(), np.random.default_rng(1)
    fitted = fit(moments_of(SecondMoments), [penalty], rank=rank, tolerance=1e-14, sweeps=3000)
    maps, mixing = fitted.maps[0], fitted.mixing[0]
    least = penalised_error(pairs, maps, mixing, penalty)
    assert fitted.objective[0] * np.square(pairs.z).sum() == pytest.approx(least, rel=1e-7)
    for _ in range(50):
        turned = maps + 1e-3 * generator.standard_normal(maps.shape)
        moved = mixing + 1e-3 * generator.standard_normal(mixing.shape)
        assert penalised_error(pairs, turned, moved, penalty) > least


def test_an_ever_larger_penalty_leads_to_the_fit_of_the_same_token():
    moments = moments_of(SecondMoments)
    path = fit(moments, [1e-3, 1e-1, 1e1, 1e4], tolerance=1e-10).objective
    own = fit(moments.same_token(), [0.0], tolerance=1e-10).objective[0]
    assert (np.diff(path) > 0).all()
    assert path[-1] == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("rank", [1, 2])
def test_passes_over_images_and_moments_in_memory_answer_alike(rank, diagonal):
    held, streamed = moments_of(SecondMoments), moments_of(StreamedMoments)
    if diagonal:
        held, streamed = held.same_token(), streamed.same_token()
    penalties = [1e-2, 1.0]
    fits = [fit(m, penalties, rank=rank, sweeps=5, tolerance=0.0) for m in (held, streamed)]
    np.testing.assert_allclose(fits[0].objective, fits[1].objective, rtol=1e-9)
    np.testing.assert_allclose(
        *(held_out_error(m, f) for m, f in zip((held, streamed), fits, strict=True)), rtol=1e-9
    )


@pytest.mark.parametrize("kind", [SecondMoments, StreamedMoments])
def test_a_part_taken_from_the_whole_leaves_the_other_parts(kind):
    pairs = Pairs()
    first, second = (kind.of(pairs, images) for images in np.split(np.arange(IMAGES), 2))
    mixing = np.random.default_rng(0).standard_normal((1, 1, N, N))
    left = (first + second - first).channel_equations(mixing)
    for got, expected in zip(left, second.channel_equations(mixing), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-10)


def test_the_prediction_has_the_error_that_moments_say():
    pairs, moments = Pairs(), moments_of(SecondMoments)
    fitted = fit(moments, [1e-2], rank=2)
    error = np.square(pairs.z - fitted.predict(pairs.x)).sum()
    assert error == pytest.approx(held_out_error(moments, fitted)[0], rel=1e-9)


def test_tokens_that_carry_nothing_predict_nothing():
    pairs = Pairs()
    pairs.x = 0 * pairs.x
    moments = SecondMoments.of(pairs, np.arange(IMAGES))
    fitted = fit(moments, [1e-3, 1.0])
    np.testing.assert_allclose(held_out_error(moments, fitted), moments.energy)


def test_cross_validation_chooses_infinity_where_the_context_is_noise():
    z, parts = gaussian(40, 0, N, D), np.split(np.arange(40), 4)
    pairs = Pairs()
    pairs.x, pairs.z = z + gaussian(40, 1, N, D), z
    moments = [SecondMoments.of(pairs, images) for images in parts]
    whole = sum(moments[1:], start=moments[0])
    assert cross_validate(whole, moments, [1e-3]).penalty == np.inf


def test_cross_validation_penalises_noisy_moments_more_with_fewer_images():
    def chosen(images):
        z = gaussian(images, 0, N, D)
        pairs = Pairs()
        pairs.x = z + 0.4 * np.roll(z, 1, axis=1) + gaussian(images, 1, N, D)
        pairs.z = z
        moments = [SecondMoments.of(pairs, i) for i in np.array_split(np.arange(images), 5)]
        whole = sum(moments[1:], start=moments[0])
        return cross_validate(whole, moments, [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]).penalty

    assert chosen(4000) < chosen(40)
