"""The scores of resampled images."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from vitals.metrics import probe_scores


@pytest.mark.parametrize("draws_at_once", [128, 3])
def test_macro_f1_of_a_resample_is_that_of_the_resampled_images(monkeypatch, draws_at_once):
    monkeypatch.setattr(probe_scores, "DRAWS_AT_ONCE", draws_at_once)
    generator = np.random.default_rng(0)
    codes, predicted = generator.integers(0, 5, (2, 30))
    counts = generator.multinomial(30, np.full(30, 1 / 30), size=20)
    found = probe_scores.macro_f1(predicted, codes, 5, counts)
    for drawn, weights in zip(found, counts, strict=True):
        images = np.repeat(np.arange(30), weights)
        assert drawn == pytest.approx(f1_score(codes[images], predicted[images], average="macro"))
