"""What a job is asked to be given grows with the study and with each attempt."""

import subprocess
import sys

import pytest
import yaml
from small_studies import digits_study

from vitals import model_sizes
from vitals.catalogue import METRICS
from vitals.estimates import LEAST_MINUTES, MOST_MINUTES, SIZES, Estimates
from vitals.model_sizes import LARGE, ModelSize
from vitals.study import Study

STAGES = [
    *(
        (stage, "")
        for stage in ("train", "load", "extract", "vary", "intervene", "stream", "align")
    ),
    *(("metric", metric) for metric in METRICS),
]


@pytest.fixture
def study(tmp_path):
    return Study(digits_study(), artifacts=tmp_path)


def asked(study, stage, name, attempt=1):
    estimates = Estimates(study)
    model = "" if stage == "align" else "vit"
    return (
        estimates.megabytes(stage, name, model, attempt),
        estimates.minutes(stage, name, model, attempt),
    )


def of_size(monkeypatch, **changes):
    size = ModelSize(**{**vars(LARGE), **changes})
    monkeypatch.setattr("vitals.estimates.size_of", lambda *_: size)


@pytest.mark.parametrize(("stage", "name"), STAGES)
def test_a_second_attempt_asks_for_twice_as_much(study, stage, name):
    first, second, third = (asked(study, stage, name, attempt) for attempt in (1, 2, 3))
    assert second == tuple(2 * amount for amount in first)
    assert third == tuple(4 * amount for amount in first)
    assert LEAST_MINUTES <= first[1] <= MOST_MINUTES


@pytest.mark.parametrize("change", ["taps", "tokens", "channels", "parameters", "pixels"])
@pytest.mark.parametrize(("stage", "name"), STAGES)
def test_nothing_asks_for_less_for_a_larger_model(study, monkeypatch, stage, name, change):
    of_size(monkeypatch)
    before = asked(study, stage, name)
    of_size(monkeypatch, **{change: 4 * getattr(LARGE, change)})
    assert all(now >= was for now, was in zip(asked(study, stage, name), before, strict=True))


def test_more_images_ask_for_more_of_what_holds_them(study, monkeypatch, tmp_path):
    of_size(monkeypatch)
    more = digits_study()
    more["images"]["limit"] = 600
    larger = Study(more, artifacts=tmp_path)
    for stage, name in (("train", ""), ("metric", "scrambling"), ("metric", "probes")):
        assert asked(larger, stage, name)[0] > asked(study, stage, name)[0]
    # one shard is passed at a time, and a token metric reads a few images at a time
    for stage, name in (("extract", ""), ("metric", "similarity")):
        assert asked(larger, stage, name)[0] == asked(study, stage, name)[0]


def test_shards_of_all_models_ask_for_what_the_largest_needs(study, monkeypatch):
    sizes = iter((LARGE, ModelSize(5, 17, 16, 1000, 64)))
    monkeypatch.setattr("vitals.estimates.size_of", lambda *_: next(sizes))
    estimates = Estimates(study)
    for asked_for in (estimates.megabytes, estimates.minutes):
        assert asked_for("extract") == asked_for("extract", model="vit")
        assert asked_for("extract") >= asked_for("extract", model="seeded")


def test_a_size_is_measured_once_and_then_read_without_torch(study, tmp_path):
    sizes = Estimates(study)._sizes
    # 4 × 4 patches and [CLS]; embed, position, two blocks and the norm
    assert (sizes["vit"].tokens, sizes["vit"].channels, sizes["vit"].taps) == (17, 16, 5)
    assert (study.folder / SIZES).is_file()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(digits_study()))
    code = (
        "import sys, yaml; from pathlib import Path; from vitals.study import Study;"
        "from vitals.estimates import Estimates;"
        "study = Study(yaml.safe_load(Path(sys.argv[1], 'study.yaml').read_text()),"
        " artifacts=Path(sys.argv[1]));"
        "print(Estimates(study).megabytes('extract', model='vit'), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(asked(study, "extract", "")[0]), "False"]


def test_a_model_whose_size_cannot_be_had_is_taken_for_a_large_one(tmp_path, monkeypatch):
    def out_of_reach(*_):
        raise model_sizes.VitalsError("the hub does not answer")

    monkeypatch.setattr(model_sizes, "_measured", out_of_reach)
    model = digits_study()["models"]["vit"] | {"weights": "pretrained"}
    assert model_sizes.size_of(model, 10, tmp_path / SIZES) == LARGE
    assert not (tmp_path / SIZES).exists()
