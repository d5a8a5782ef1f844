"""The fit that scrambling rests on: its optimum, its penalty, its two ways to read moments."""

import numpy as np
import pytest
import torch

from scrambled import gaussian, mixed, orthogonal, partly_averaged
from vitals.metrics.token_mixing import cross_validate, fit
from vitals.metrics.token_moments import SecondMoments, StreamedMoments, predicted
from vitals.metrics.token_pairs import Pairs

IMAGES, N, D = 80, 5, 3


def tensor(values):
    """(image, token, channel) -> (token, image, channel), centred."""
    return torch.from_numpy(np.ascontiguousarray((values - values.mean(axis=0)).swapaxes(0, 1)))


def example(seed=0, noise=0.5):
    z = gaussian(IMAGES, seed, N, D)
    layer = mixed(partly_averaged(0.6, N), z, orthogonal(D))
    return tensor(layer + noise * gaussian(IMAGES, seed + 1, N, D)), tensor(z)


def pairs_of(x, z, images=None):
    """In three blocks."""
    images = torch.arange(x.shape[1]) if images is None else torch.as_tensor(images)
    blocks = [[v[:, block] for block in torch.tensor_split(images, 3)] for v in (x, z)]
    return Pairs(*blocks, torch.eye(x.shape[2], dtype=torch.float64))


def moments_of(kind, **settings):
    return kind.of(pairs_of(*example(**settings)))


def squared_error(moments, fitted):
    return moments.squared_error(fitted.maps, fitted.mixing)


def penalised_error(x, z, maps, mixing, penalty):
    error = (z - predicted(x, maps, mixing)).square().sum()
    for m, w in zip(mixing, maps[1:], strict=True):
        scale = (x @ w).square().sum() / N
        error += penalty * scale * (m - m.diag().diag()).square().sum()
    return error


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_no_change_of_any_part_lowers_the_penalised_error(penalty, rank):
    pairs = example()
    torch.manual_seed(1)
    moments = moments_of(SecondMoments)
    fitted = fit(moments, [penalty], rank=rank, tolerance=1e-14, sweeps=400)
    maps, mixing = fitted.maps[0], fitted.mixing[0]
    least = penalised_error(*pairs, maps, mixing, penalty)
    assert (fitted.objective[0] * moments.energy).item() == pytest.approx(least.item(), rel=1e-7)
    for _ in range(50):
        turned = maps + 1e-3 * torch.randn_like(maps)
        moved = mixing + 1e-3 * torch.randn_like(mixing)
        assert penalised_error(*pairs, turned, moved, penalty) > least


def test_an_ever_larger_penalty_leads_to_the_fit_of_the_same_token():
    moments = moments_of(SecondMoments)
    path = fit(moments, [1e-3, 1e-1, 1e1, 1e4], tolerance=1e-10).objective
    own = fit(moments.same_token(), [0.0], tolerance=1e-10).objective[0]
    assert (path.diff() > 0).all()
    assert path[-1].item() == pytest.approx(own.item(), abs=1e-4)


@pytest.mark.parametrize("rank", [1, 2])
def test_passes_over_images_and_moments_in_memory_answer_alike(rank):
    held, streamed = moments_of(SecondMoments), moments_of(StreamedMoments)
    penalties = [1e-2, 1.0]
    fits = [fit(m, penalties, rank=rank, sweeps=5, tolerance=0.0) for m in (held, streamed)]
    torch.testing.assert_close(fits[0].objective, fits[1].objective, rtol=1e-9, atol=0)
    errors = [squared_error(m, f) for m, f in zip((held, streamed), fits, strict=True)]
    torch.testing.assert_close(*errors, rtol=1e-9, atol=0)


def test_the_same_token_is_read_off_moments_and_passes_alike():
    held, streamed = (moments_of(kind).same_token() for kind in (SecondMoments, StreamedMoments))
    torch.testing.assert_close(held.inputs, streamed.inputs)
    torch.testing.assert_close(held.cross, streamed.cross)
    assert held.energy == pytest.approx(streamed.energy)


def test_places_of_context_alone_are_mixed_in_and_not_rebuilt():
    z = tensor(gaussian(400, 0, N, D))
    beside = tensor(gaussian(400, 1, 1, D))
    x = torch.cat([z + beside, beside])  # without the place beside, half is lost
    for kind in (SecondMoments, StreamedMoments):
        moments = kind.of(pairs_of(x, z))
        fitted = fit(moments, [1e-6], tolerance=1e-12)
        assert fitted.mixing.shape == (1, 1, N, N + 1)
        assert squared_error(moments, fitted)[0] / moments.energy < 1e-3


def test_a_support_of_all_places_is_none_and_one_of_the_own_is_the_same_token():
    moments = moments_of(SecondMoments)
    exact = {"tolerance": 1e-12, "sweeps": 500}
    everywhere = fit(moments, [0.1], support=torch.ones(N, N, dtype=bool), **exact).objective
    torch.testing.assert_close(everywhere, fit(moments, [0.1], **exact).objective)
    alone = fit(moments, [0.1], support=torch.eye(N, dtype=bool), **exact).objective
    own = fit(moments.same_token(), [0.0], **exact).objective
    torch.testing.assert_close(alone, own, rtol=0, atol=1e-8)


def test_a_fit_has_no_mixing_outside_its_support():
    support = torch.ones(N, N, dtype=bool).tril()
    mixing = fit(moments_of(SecondMoments), [0.1], rank=2, support=support).mixing
    assert (mixing[..., ~support] == 0).all()
    assert (mixing[..., support] != 0).all()


@pytest.mark.parametrize("kind", [SecondMoments, StreamedMoments])
def test_a_part_taken_from_the_whole_leaves_the_other_parts(kind):
    pairs = example()
    first, second = (
        kind.of(pairs_of(*pairs, images)) for images in torch.arange(IMAGES).tensor_split(2)
    )
    mixing = torch.randn(1, 1, N, N, dtype=torch.float64)
    left = (first + second - first).channel_equations(mixing)
    for got, expected in zip(left, second.channel_equations(mixing), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_prediction_has_the_error_that_moments_say(rank):
    x, z = example()
    moments = SecondMoments.of(pairs_of(x, z))
    fitted = fit(moments, [1e-2], rank=rank)
    error = (z - predicted(x, fitted.maps[0], fitted.mixing[0])).square().sum()
    torch.testing.assert_close(error, squared_error(moments, fitted)[0], rtol=1e-9, atol=0)


def test_tokens_that_carry_nothing_predict_nothing():
    x, z = example()
    moments = SecondMoments.of(pairs_of(0 * x, z))
    fitted = fit(moments, [1e-3, 1.0])
    assert squared_error(moments, fitted).tolist() == pytest.approx([moments.energy] * 2)


def folds_of_neighbours(kind, images, own_noise):
    z = gaussian(images, 0, N, D)
    x = z + own_noise * np.roll(z, 1, axis=1) + gaussian(images, 1, N, D)
    x, z = tensor(x), tensor(z)
    parts = [kind.of(pairs_of(x, z, fold)) for fold in torch.arange(images).tensor_split(5)]
    return sum(parts[1:], start=parts[0]), parts


@pytest.mark.parametrize("kind", [SecondMoments, StreamedMoments])
def test_cross_validation_chooses_infinity_where_the_context_is_noise(kind):
    assert cross_validate(*folds_of_neighbours(kind, 40, 0.0), [1e-3]).penalty == np.inf


@pytest.mark.parametrize("kind", [SecondMoments, StreamedMoments])
def test_cross_validation_penalises_noisy_moments_more_with_fewer_images(kind):
    grid = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]

    def chosen(images):
        return cross_validate(*folds_of_neighbours(kind, images, 0.4), grid).penalty

    assert chosen(4000) < chosen(40)
