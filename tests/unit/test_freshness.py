"""Whether a result is what would be made now: judged, said in words, and told the workflow."""

import html
import json
import os
import shutil

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file

from vitals import cli, freshness, lost_records, origin, status
from vitals.catalogue import FIGURES, METRICS, modules
from vitals.chain import chain
from vitals.data import images
from vitals.errors import VitalsError
from vitals.metrics import files
from vitals.provenance import canonical, code_parts, digest_of
from vitals.study import Study

OPTIONS = {"img_size": 8, "patch_size": 2, "in_chans": 1}
MODEL = {"architecture": "vit_tiny_patch16_224", "options": OPTIONS}

SETTINGS = {
    "study": "small",
    "images": {"dataset": "digits", "limit": 60},
    "models": {"one": MODEL, "two": MODEL},
    "activations": {"shard_images": 40},
    "interventions": {"images": 5},
}


def study(folder, **changes):
    return Study(SETTINGS | changes, artifacts=folder)


def write_model(report, made):
    digest = digest_of(str(report).encode())
    report.write_text(json.dumps({**made, "weights_digest": digest, "built": {}}))
    save_file({"a": np.zeros(1)}, report.with_suffix(".safetensors"), {"weights_digest": digest})


def write_figure(path, made):
    said = html.escape(canonical(made), quote=False)
    path.write_text(f"<dc:description>{said}</dc:description>")


def write_shard(path, made):
    path.write_text(json.dumps({"attributes": {"provenance": {**made, "of": str(path)}}}))


def write_result(path, made):
    del made["files"]
    files.write(xr.Dataset(attrs={"of": str(path)}), path, **made)


def write_table(path, made):
    path.write_text(canonical(made))


def write_page(path, made):
    path.write_text(f'<script type="application/json" id="origin">{canonical(made)}</script>')


WRITERS = {
    **{"train": write_model, "extract": write_shard, "metric": write_result},
    **{"compare": write_result, "align": write_result, "figure": write_figure},
    **dict.fromkeys(("summary", "findings", "captions", "replicate", "depths"), write_table),
    **{"gallery": write_result, "page": write_page},
    **dict.fromkeys(("intervene", "sweep"), write_result),
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A finished study whose results are hardly more than what they say of themselves."""
    folder = tmp_path_factory.mktemp("filled")
    planned, parts = study(folder), {}
    for step in chain(planned):
        ran = modules(step.stage, step.name)
        parts.setdefault(ran, code_parts(ran))
        made = {
            "spec": planned.spec(step.stage, step.name),
            "code": planned.code(step.stage, step.name),
            "modules": parts[ran],
            "inputs": origin.identities(step.read),
        }
        for output in step.outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
        if step.stage == "images":
            settings = planned.settings["images"]
            images.write(images.build(settings), step.outputs[0], settings, **made)
            continue
        if step.stage != "train":
            for output in step.outputs[1:]:
                output.write_text(str(output))
            made["files"] = origin.identities({file.name: file for file in step.outputs[1:]})
        WRITERS[step.stage](step.outputs[0], made)
    return folder


@pytest.fixture
def folder(filled, tmp_path):
    """A copy of it to change."""
    shutil.copytree(filled, tmp_path / "artifacts")
    return tmp_path / "artifacts"


def stale(judged):
    """The model, label and reasons of each stale step."""
    return {
        (verdict.step.model, verdict.step.label): verdict.reasons
        for verdict in judged.verdicts
        if verdict.state == freshness.STALE
    }


class Judged:
    def __init__(self, folder, **changes):
        self.verdicts = list(freshness.verdicts(study(folder, **changes)))


def test_each_step_stands_after_those_that_it_reads(folder):
    seen = set()
    for step in chain(study(folder)):
        assert set(step.read.values()) <= seen
        seen.update(step.outputs)


def test_what_would_be_made_again_as_it_is_is_fresh(folder):
    assert {verdict.state for verdict in Judged(folder).verdicts} == {freshness.FRESH}


def test_a_setting_is_named_with_what_it_was_and_is(folder):
    found = stale(Judged(folder, metrics={"similarity": {"outlier_mads": 4}}))
    assert found["one", "metric similarity"] == ("outlier_mads was 5, is 4",)
    assert found["one", "metric phases"] == ("similarity.nc is stale",)
    assert found[None, "compare similarity"] == (
        "../one/metrics/similarity.nc is stale",
        "../two/metrics/similarity.nc is stale",
    )
    assert ("one", "metric probes") not in found
    assert ("one", "extract 0") not in found


def test_a_number_that_is_spelled_otherwise_is_another_setting(folder):
    planned = study(folder)
    step = next(step for step in chain(planned) if step.label == "metric similarity")
    made = origin.read(step.outputs[0])
    spec = made.spec.replace('"outlier_mads":5', '"outlier_mads":5.0')
    other = origin.Origin(spec, made.code, made.modules, made.inputs)
    assert list(freshness.differences(step, planned, other)) == ["outlier_mads was 5.0, is 5"]


def test_other_images_are_said_in_words(folder):
    found = stale(Judged(folder, images={"dataset": "digits", "limit": 80}))
    assert found[None, "images"] == ("limit was 60, is 80", "other images are listed")
    assert found["one", "train"] == ("its images are others",)
    assert "its images are others" in found["one", "extract 1"]


def test_an_edited_module_is_named(folder, monkeypatch):
    planned = study(folder)
    step = next(step for step in chain(planned) if step.label == "metric probes")
    made = origin.read(step.outputs[0])
    before = {**made.modules, "vitals.metrics.probes": "0", "numpy": "1.0", "vitals.gone": "0"}
    del before["vitals.metrics.axes"]
    old = origin.Origin(made.spec, "0", before, made.inputs, made.files)
    now = made.modules["numpy"]
    assert list(freshness.differences(step, planned, old)) == [
        f"numpy was 1.0, is {now}",
        "vitals.gone is no longer used",
        "vitals.metrics.axes is used as well",
        "vitals.metrics.probes was edited",
    ]


def test_another_input_and_all_below_are_stale(folder):
    one, two = (folder / "small" / name / "metrics" / "probes.nc" for name in ("one", "two"))
    shutil.copy(one, two)
    found = stale(Judged(folder))
    assert found["two", "metric probes"] == (
        "../activations/0.zarr/zarr.json is another",
        "../activations/1.zarr/zarr.json is another",
    )
    assert found["two", "metric tradeoff"] == ("probes.nc is another", "probes.nc is stale")
    assert (None, "compare probes") in found
    assert not {("one", "metric probes"), ("two", "metric similarity")} & found.keys()


def test_an_input_that_is_gone_makes_nothing_stale(folder):
    shutil.rmtree(folder / "small" / "one" / "activations")
    states = [verdict.state for verdict in Judged(folder).verdicts]
    assert states.count(freshness.MISSING) == 2
    assert freshness.STALE not in states


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("figures/probes.csv", "probes.csv is not the one that was made with it"),
        ("summary.csv", "summary.csv is not the one that was made with it"),
        ("two/model.safetensors", "model.safetensors is not the one that was made with it"),
        ("two/model.json", freshness.UNKNOWN),
    ],
)
def test_a_file_that_was_put_in_its_place_is_found(folder, file, said):
    (folder / "small" / file).write_text("another")
    assert [said] in [list(verdict.reasons) for verdict in Judged(folder).verdicts]


def test_a_status_is_a_line_a_model_and_stage(folder):
    shutil.rmtree(folder / "small" / "two" / "activations" / "1.zarr")
    judged = Judged(folder, metrics={"probes": {"folds": 3}}).verdicts
    lines = status.lines(judged)
    assert len(lines) == 1 + 2 * (4 + len(METRICS)) + len(METRICS) + 2 + len(FIGURES) + 6
    probes = next(line for line in lines if line.startswith("one") and "metric probes" in line)
    assert probes.split()[:4] == ["one", "metric", "probes", "stale"]
    assert probes.endswith(", is 3")
    extract = next(line for line in lines if line.startswith("two") and "extract" in line)
    assert extract.split() == ["two", "extract", "missing", "1", "of", "2"]
    assert status.count(judged).endswith(" 1 missing")


def test_why_says_a_fact_a_line(folder):
    planned = study(folder, metrics={"probes": {"folds": 3}})
    said = list(status.why(folder / "small" / "one" / "metrics" / "probes.nc", planned))
    assert said[0] == "made by metric probes"
    assert "setting bootstrap_samples = 1000" in said
    assert any(line.startswith("package numpy ") for line in said)
    assert any(line.startswith("input ../activations/0.zarr/zarr.json, ") for line in said)
    assert [line for line in said if line.startswith("now")] == ["now: folds was 5, is 3"]


@pytest.mark.parametrize(
    "file", ["figures/probes.png", "one/activations/0.zarr", "two/model.safetensors", "summary.csv"]
)
def test_why_knows_each_file_of_a_result(folder, file):
    said = list(status.why(folder / "small" / file, study(folder)))
    assert said[-1] == "now: the study small would make the same"


def test_why_of_a_file_that_the_study_does_not_make(folder):
    planned = study(folder, models={"one": MODEL})
    said = list(status.why(folder / "small" / "two" / "model.safetensors", planned))
    assert said[-1] == "now: the study small makes no such file"
    with pytest.raises(VitalsError, match="there is no such file"):
        list(status.why(folder / "nowhere.nc", planned))
    (folder / "notes.txt").touch()
    with pytest.raises(VitalsError, match="does not say what it was made from"):
        list(status.why(folder / "notes.txt", planned))


def recovered(folder, recorded=()):
    found = lost_records.recovered(study(folder), lambda file: file in recorded)
    return {record.file: record for record in found}


def test_a_record_says_what_a_result_was_made_from(folder):
    found, planned = recovered(folder), study(folder)
    for step in chain(planned):
        for output in step.outputs:
            assert found[output].params == (
                planned.spec(step.stage, step.name),
                planned.code(step.stage, step.name),
            )
            assert sorted(found[output].inputs) == sorted(map(str, step.inputs))


def test_only_what_has_no_record_gets_one_and_is_touched(folder):
    lost = folder / "small" / "one" / "metrics" / "phases.nc"
    everything = {file for step in chain(study(folder)) for file in step.outputs}
    for file in everything:
        os.utime(file, (1000, 1000))
    os.utime(folder / "small" / "one" / "metrics" / "similarity.nc", (2000, 2000))
    assert recovered(folder, everything) == {}
    assert recovered(folder, everything - {lost}).keys() == {lost}
    times = {file: file.stat().st_mtime for file in everything}
    assert {file for file, time in times.items() if time == 2000} == {
        lost, folder / "small" / "one" / "metrics" / "similarity.nc",
    }  # fmt: skip


def test_times_follow_the_chain_where_the_inputs_are_the_same(folder):
    files = [file for step in chain(study(folder)) for file in step.outputs]
    for place, file in enumerate(files):
        os.utime(file, (9000 - place, 9000 - place))
    recovered(folder)
    for step in chain(study(folder)):
        oldest = min(file.stat().st_mtime for file in step.outputs)
        assert all(file.stat().st_mtime <= oldest for file in step.inputs)


def test_a_result_of_other_inputs_says_so_and_keeps_its_time(folder):
    one, two = (folder / "small" / name / "metrics" / "similarity.nc" for name in ("one", "two"))
    shutil.copy(one, two)
    os.utime(two, (1000, 1000))
    found = recovered(folder)
    shard = folder / "small" / "two" / "activations" / "0.zarr" / "zarr.json"
    assert f"{shard}, another than now" in found[two].inputs
    assert not found[two].lasting
    assert two.stat().st_mtime == 1000
    assert found[one].lasting
    torn = folder / "small" / "one" / "metrics" / "probes.nc"
    torn.write_bytes(torn.read_bytes()[:-10])
    assert recovered(folder)[torn].params == (freshness.UNKNOWN,)


def test_a_record_does_not_depend_on_what_the_study_is_now(folder):
    now = study(folder, models={"one": MODEL}, metrics={"probes": {"folds": 3}})
    records = {record.file: record for record in lost_records.recovered(now, lambda file: False)}
    assert records.items() <= recovered(folder).items()


def test_the_commands_print_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "study.yaml").write_text(json.dumps(SETTINGS))
    cli.main(["status", "--study", "study.yaml"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["(all)", "images", "fresh"]
    assert said[-1].startswith("vitals status: ")
    assert said[-1].endswith(" fresh, 0 stale, 0 missing")
    cli.main(["why", "artifacts/small/summary.csv", "--study", "study.yaml"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "made by summary"
    assert said[-2:] == [
        "now: the study small would make the same",
        "vitals why: artifacts/small/summary.csv",
    ]
