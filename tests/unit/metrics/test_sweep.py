"""What a sweep over models says, of planted sweeps."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from vitals.errors import VitalsError
from vitals.metrics import sweep
from vitals.metrics.results import absences

IMAGES, DRAWS = 400, 300
QUICK = {"bootstrap_samples": DRAWS}
DEPTHS = (2, 4, 8, 12, 16)
SEEDS = 3


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch):
    monkeypatch.setattr(sweep, "PERMUTATIONS", 1999)


def curves(value, random, noise=0.0):
    """A value with draws around it."""
    return value, value + noise * random.standard_normal(DRAWS)


def drawn(name, value, draws):
    """A result of one number with its draws."""
    return xr.Dataset({name: value, f"{name}_draws": ("draw", draws)})


def model(blocks, random, accuracy, plateau=4.0, isi=0.1, useful=None):
    """The results of one model with planted numbers."""
    top1 = (random.uniform(size=IMAGES) < accuracy).astype(float)
    names = ["embed", "position", *(f"block.{i}" for i in range(blocks)), "norm"]
    of_phases = {"cliff_end": 1.0, "climb_start": 1.0 + plateau, "plateau_length": plateau}
    phases = xr.Dataset()
    for name, value in of_phases.items():
        phases[name], phases[f"{name}_draws"] = value, ("draw", curves(value, random, 0.01)[1])
    useful = blocks if useful is None else useful
    return {
        "interventions": xr.Dataset(
            {"top1": ("image", top1)},
            {"place": names[1:-1], "image_id": ("image", [f"{i}" for i in range(IMAGES)])},
        ),
        "phases": phases,
        "scrambling": xr.Dataset(
            {
                "isi": (("null", "layer"), np.full((1, len(names)), isi)),
                "isi_draws": (("null", "layer", "draw"), np.full((1, len(names), DRAWS), isi)),
            },
            {"null": ["none"], "layer": names},
        ),
        "attention": drawn("marginalization", random.uniform(), random.uniform(size=DRAWS)),
        "collapse": drawn("nc1_quotient", 1 - accuracy, np.full(DRAWS, 1 - accuracy)).expand_dims(
            layer=names, feature=["cls"]
        ),
        "depth": drawn("useful_depth", float(useful), np.full(DRAWS, float(useful))).expand_dims(
            feature=["cls"]
        ),
    }


def planted(accuracy, depths=DEPTHS, seeds=SEEDS, seed=0, **of_blocks):
    """A sweep: results and reports by model; accuracy and others as functions of the blocks."""
    random = np.random.default_rng(seed)
    results, about = {}, {}
    for blocks in depths:
        for number in range(seeds):
            name = f"depth{blocks}_{number}"
            own = {key: given(blocks, random) for key, given in of_blocks.items()}
            results[name] = model(blocks, random, accuracy(blocks), **own)
            about[name] = {"parameters": 1000 * blocks, "built": {"options": {"embed_dim": 8}}}
    return results, about


def swept(*given, **params):
    return sweep.compute(*given, **QUICK, **params)


def test_a_rise_is_a_rise_and_no_fall_is_sure():
    found = swept(*planted(lambda blocks: 0.5 + 0.025 * blocks))
    assert found["level"].values.tolist() == list(DEPTHS)
    assert found["rises_throughout"] and found["falls"] == 0
    assert found["accuracy_difference_simultaneous_low"].sel(pair="16 - 2") > 0
    assert found["correlation"].sel(predictor="blocks") > 0.9


def test_a_fall_of_the_deepest_is_found_for_all_pairs_at_once():
    found = swept(*planted(lambda blocks: 0.6 if blocks > 12 else 0.6 + 0.03 * blocks))
    assert not found["rises_throughout"] and found["falls"] >= 1
    assert found["accuracy_difference_simultaneous_high"].sel(pair="16 - 12") < 0
    wider = found["accuracy_difference_simultaneous_low"] <= found["accuracy_difference_low"]
    assert wider.all()


def test_models_that_do_not_differ_surely_neither_rise_nor_fall():
    """All pairs at once: of six sweeps of equal models hardly one has a sure difference."""
    sure = 0
    for seed in range(6):
        found = swept(*planted(lambda blocks: 0.7, depths=(2, 4, 8, 16), seed=seed))
        low, high = (found[f"accuracy_difference_simultaneous_{end}"] for end in ("low", "high"))
        sure += bool(((low > 0) | (high < 0)).any())
    assert sure <= 1


@pytest.mark.parametrize(
    ("plateau", "verdict"),
    [
        (lambda blocks, random: 3.0 + 0.3 * random.standard_normal(), sweep.KEEPS),
        (
            lambda blocks, random: 0.5 * (blocks + 1) + 0.1 * random.standard_normal(),
            sweep.STRETCHES,
        ),
    ],
)
def test_a_plateau_keeps_its_length_or_stretches(plateau, verdict):
    found = swept(*planted(lambda blocks: 0.8, plateau=plateau)).sel(quantity="plateau")
    assert found["verdict"] == verdict
    slope, low, high = (found[f"length_slope{end}"] for end in ("", "_low", "_high"))
    assert low <= slope <= high
    assert slope == pytest.approx(0 if verdict == sweep.KEEPS else 0.5, abs=0.05)


def test_useful_depth_that_stays_is_said_beside_the_phases():
    found = swept(*planted(lambda blocks: 0.9, useful=lambda blocks, random: min(blocks, 3) + 0.0))
    assert found["length"].sel(quantity="useful_depth").values.tolist() == [2, 3, 3, 3, 3]


def test_a_predictor_that_makes_accuracy_is_better_than_depth():
    """Accuracy follows the index, which has nothing to do with depth."""
    index = {}

    def isi(blocks, random):
        index[blocks] = index.get(blocks, [])
        index[blocks].append(random.uniform(0, 0.4))
        return index[blocks][-1]

    found = swept(*planted(lambda blocks: 0.5 + index[blocks][-1], isi=isi))
    assert found["correlation"].sel(predictor="isi") > 0.85
    assert found["correlation_p_adjusted"].sel(predictor="isi") < 0.05
    assert found["partial_correlation"].sel(predictor="isi") > 0.8
    advantage = found["advantage"].sel(candidate="isi", baseline="blocks")
    assert advantage > 0.3
    assert found["advantage_simultaneous_low"].sel(candidate="isi", baseline="blocks") > 0


def test_what_is_random_is_no_predictor_once_there_are_several():
    found = swept(*planted(lambda blocks: 0.7))
    assert (
        found["correlation_p_adjusted"].dropna("predictor")
        >= found["correlation_p"].dropna("predictor")
    ).all()
    own = found.sel(predictor="marginalization")
    assert own["correlation_simultaneous_low"] < 0 < own["correlation_simultaneous_high"]


def test_ranks_and_chances_are_those_of_scipy():
    results, about = planted(lambda blocks: 0.5 + 0.02 * blocks)
    found = swept(results, about)
    accuracy = [of["interventions"]["top1"].mean().item() for of in results.values()]
    blocks = [of["interventions"].sizes["place"] - 1 for of in results.values()]
    known = stats.spearmanr(accuracy, blocks)
    assert found["correlation"].sel(predictor="blocks") == pytest.approx(known.statistic)
    assert found["rank_correlation"].sel(first="accuracy", second="accuracy") == pytest.approx(1)
    assert found["rank_correlation"].sel(first="parameters", second="blocks") == pytest.approx(1)
    assert np.isnan(found["partial_correlation"].sel(predictor="blocks"))


def test_seeds_widen_the_interval_and_their_lack_is_said():
    random = np.random.default_rng(0)
    offsets = iter(random.uniform(-0.2, 0.2, 100))
    several = swept(*planted(lambda blocks: 0.7 + next(offsets)))
    alone = swept(*planted(lambda blocks: 0.7, seeds=1))
    width = {
        name: (found["level_accuracy_high"] - found["level_accuracy_low"]).mean().item()
        for name, found in (("several", several), ("alone", alone))
    }
    assert width["several"] > 1.2 * width["alone"]
    assert "not over seeds" in alone.attrs["note"] and "3 or more" in several.attrs["note"]


def test_a_sweep_of_width_has_levels_of_channels_and_no_lengths():
    results, about = planted(lambda blocks: 0.8, depths=(4,), seeds=6)
    for place, report in enumerate(about.values()):
        report["built"]["options"]["embed_dim"] = 24 * (1 + place // 2)
    found = swept(results, about, factor="width")
    assert found["level"].values.tolist() == [24, 48, 72]
    assert absences(found) == {"length": "no models of two depths have one"}


def test_what_one_model_lacks_is_no_predictor():
    results, about = planted(lambda blocks: 0.8)
    del results["depth8_1"]["scrambling"]["isi"]
    found = swept(results, about)
    assert absences(found) == {"isi, depth8_1": "no isi of scrambling"}
    assert "isi" not in found["predictor"].values


def test_models_too_shallow_for_phases_leave_the_lengths_of_the_others():
    plateau = {
        "plateau": lambda blocks, random: 0.5 * (blocks + 1) + 0.1 * random.standard_normal()
    }
    results, about = planted(lambda blocks: 0.8, **plateau)
    for number in range(SEEDS):
        results[f"depth2_{number}"]["phases"] = xr.Dataset()
    found = swept(results, about).sel(quantity="plateau")
    assert np.isfinite(found["length"]).values.tolist() == [False, *[True] * 4]
    assert found["verdict"] == sweep.STRETCHES
    assert "cliff, depth2_0" in absences(found)


def test_two_levels_are_no_sweep():
    found = swept(*planted(lambda blocks: 0.8, depths=(2, 4)))
    assert absences(found)["sweep"] == (
        "a sweep needs 3 levels of depth and 4 models, found 2 and 6"
    )
    with pytest.raises(VitalsError, match="unknown factor of a sweep 'breadth'"):
        swept(*planted(lambda blocks: 0.8), factor="breadth")
