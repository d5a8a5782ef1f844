"""What a result says that it was made from, in every kind of file, and what tells files apart."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from vitals import origin
from vitals.data import images
from vitals.figures import files as figure_files
from vitals.metrics import files

MADE = {
    "spec": '{"penalties":[1.0],"where":"<a & b>"}',
    "code": "0123456789abcdef",
    "modules": {"vitals.metrics.probes": "0123456789ab", "numpy": "2.4.0"},
    "inputs": {"../activations/0.zarr/zarr.json": "fedcba9876543210"},
}
DIGITS = {"dataset": "digits", "test_share": 0.3, "seed": 0, "limit": 60}


def write_parquet(path):
    images.write(images.build(DIGITS), path, DIGITS, **MADE)


def write_netcdf(path):
    files.write(xr.Dataset({"value": 1.0}), path, **MADE)


def write_svg(path):
    figure = Figure(figsize=(2, 1))
    figure.subplots()
    figure_files.write(figure, pd.DataFrame({"value": [0.1]}), path, **MADE)


def write_table(path):
    path.write_text(json.dumps(MADE))


def write_shard(path):
    path.write_text(json.dumps({"attributes": {"provenance": {**MADE, "start": 0}}}))


WRITERS = {
    "images.parquet": write_parquet,
    "probes.nc": write_netcdf,
    "probes.svg": write_svg,
    "summary.json": write_table,
    "zarr.json": write_shard,
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_read_back(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = origin.read(tmp_path / name)
    assert {key: getattr(found, key) for key in MADE} == MADE


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("left", [0, 0.5])
def test_a_torn_file_says_nothing(tmp_path, name, left):
    WRITERS[name](tmp_path / name)
    content = (tmp_path / name).read_bytes()
    if name.endswith("svg"):
        content = content[: content.index(b"</dc:description>")]
    (tmp_path / name).write_bytes(content[: int(left * len(content))])
    assert origin.read(tmp_path / name) is None


def test_a_figure_knows_the_files_that_were_made_with_it(tmp_path):
    write_svg(tmp_path / "probes.svg")
    found = origin.read(tmp_path / "probes.svg").files
    assert found.keys() == {"probes.png", "probes.pdf", "probes.csv"}
    for name, known in found.items():
        assert origin.is_same(tmp_path / name, known)
    (tmp_path / "probes.csv").write_text("value\n0.2\n")
    assert not origin.is_same(tmp_path / "probes.csv", found["probes.csv"])


def test_inputs_are_named_from_the_folder_of_the_result(tmp_path):
    shard = tmp_path / "vit" / "activations" / "0.zarr"
    weights = tmp_path / "vit" / "model.json"
    result = tmp_path / "vit" / "metrics" / "probes.nc"
    assert list(origin.names([weights], shard)) == ["../../model.json"]
    assert list(origin.names([weights], shard / "zarr.json")) == ["../../model.json"]
    assert list(origin.names([shard], result)) == ["../activations/0.zarr"]


def test_a_file_is_known_by_its_content_wherever_it_lies(tmp_path):
    first, second = tmp_path / "a.nc", tmp_path / "b.nc"
    first.write_bytes(b"content")
    second.write_bytes(b"content")
    assert origin.identity(first) == origin.identity(second)
    second.write_bytes(b"CONTENT")
    assert origin.identity(first) != origin.identity(second)


def test_a_model_is_known_by_what_it_is_and_not_by_how_it_was_made(tmp_path):
    report = tmp_path / "model.json"
    about = {"weights_digest": "1" * 64, "built": {}, "accuracy": 0.9}
    report.write_text(json.dumps({**about, **MADE, "device": "cpu"}))
    known = origin.identity(report)
    report.write_text(json.dumps({**about, **MADE, "device": "cuda:0", "versions": {}}))
    assert origin.is_same(report, known)
    report.write_text(json.dumps({**about, **MADE, "weights_digest": "2" * 64}))
    assert not origin.is_same(report, known)


def test_weights_are_known_by_the_digest_in_their_header(tmp_path):
    from safetensors.numpy import save_file

    weights = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(3)}, weights, {"weights_digest": "1" * 64})
    assert origin.identity(weights) == "1" * 16
    save_file({"a": np.zeros(3)}, weights)  # a user's own: nothing is written in its header
    own = origin.identity(weights)
    save_file({"a": np.ones(3)}, weights)
    assert not origin.is_same(weights, own)
    weights.write_bytes(b"no safetensors at all")
    assert origin.identity(weights) != own


def test_a_file_written_twice_at_one_time_is_read_twice(tmp_path):
    file = tmp_path / "a.csv"
    time = file.parent.stat().st_mtime + 3600  # of a moment that is not over while this runs

    def write(content):
        file.write_bytes(content)
        os.utime(file, (time, time))

    write(b"before")
    before = origin.identity(file)
    write(b"after!")
    assert origin.identity(file) != before


def test_a_large_file_is_read_again_only_where_its_time_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "LARGE", 4)
    file = tmp_path / "last.pth"
    file.write_bytes(b"weights")
    known = origin.identity(file)
    monkeypatch.setattr(origin, "_identity", None)  # may not be asked
    assert origin.is_same(file, known)
    assert not origin.is_same(file, known.replace(" 7 ", " 8 ").replace(known.split()[2], "1"))
    monkeypatch.undo()
    file.touch()
    assert origin.is_same(file, known)
    file.write_bytes(b"WEIGHTS")
    assert not origin.is_same(file, known)
