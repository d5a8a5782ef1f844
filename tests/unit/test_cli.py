"""The command line: a line that says what was made, or one that says what is wrong."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from vitals import cli
from vitals.data import images
from vitals.provenance import canonical

SPEC = json.dumps({"dataset": "digits", "test_share": 0.3, "seed": 0, "limit": 60})


def refused(capsys, *arguments):
    """The one line that a wrong input ends with, and nothing on standard output."""
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(argument) for argument in arguments])
    message = stopped.value.code
    assert isinstance(message, str)  # the interpreter prints it, and exits with status 1
    assert "\n" not in message
    assert capsys.readouterr().out == ""
    return message


def test_help_names_every_stage(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for stage in ("images", "train", "load", "extract", "metric", "figure", "summary", "verify"):
        assert f"\n    {stage} " in text


def test_images_writes_the_list_and_says_so(tmp_path, capsys):
    output = tmp_path / "images.parquet"
    cli.main(["images", "--spec", SPEC, "--code", "digest", "--output", str(output)])
    listed = images.read(output)
    counts = listed.table["split"].value_counts()
    assert capsys.readouterr().out == (
        f"vitals images: 60 images ({counts['fit']} fit, {counts['test']} test) in {output}\n"
    )
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "digit"}, "vitals images: unknown dataset 'digit': did you mean 'digits'"),
        ({"test_share": 0.01}, "vitals images: images.test_share = 0.01 leaves class 0"),
    ],
)
def test_a_wrong_setting_leaves_nothing(tmp_path, capsys, changes, message):
    spec = json.dumps({**json.loads(SPEC), **changes})
    found = refused(capsys, "images", "--spec", spec, "--output", tmp_path / "images.parquet")
    assert found.startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "name", "inputs", "message"),
    [
        ("metric", "simlarity", [], "unknown metric 'simlarity': did you mean 'similarity'"),
        ("figure", "probe", ["--results", "x.nc"], "unknown figure 'probe': did you mean 'probes'"),
        ("compare", "probe", ["--results", "x.nc"], "unknown metric 'probe': did you mean 'probes"),
        ("metric", "similarity", [], "similarity reads activations: give its shards as --activ"),
        ("metric", "similarity", ["--activations", "0.zarr"], "0.zarr is not a whole shard"),
        ("metric", "similarity", ["--activations", "nowhere"], "no shards at nowhere/activations"),
        ("metric", "phases", ["--results", "nowhere.nc"], "nowhere.nc"),
    ],
)
def test_a_wrong_name_or_input_is_one_line(
    tmp_path, capsys, monkeypatch, stage, name, inputs, message
):
    monkeypatch.chdir(tmp_path)
    found = refused(capsys, stage, name, "--spec", "{}", *inputs, "--output", "out.nc")
    assert found.startswith(f"vitals {stage}: ")
    assert message in found
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_input_is_exit_status_1_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "vitals", "verify", tmp_path / "0.zarr"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"vitals verify: {tmp_path / '0.zarr'} is not a whole shard: it has no zarr.json\n"
    )


@pytest.fixture
def trained(tmp_path, images_file, small_options):
    """A small model, trained by the command: its weights."""
    spec = {
        "architecture": "vit_tiny_patch16_224",
        "options": small_options,
        "training": {
            **{"epochs": 2, "batch": 16, "learning_rate": 0.01, "weight_decay": 0.05},
            **{"warmup": 0.2, "smoothing": 0.0, "seed": 0},
        },
    }
    weights = tmp_path / "vit" / "model.safetensors"
    weights.parent.mkdir()
    cli.main(["train", "--spec", canonical(spec), "--code", "digest", "--images", str(images_file),
              "--output", str(weights), "--device", "cpu"])  # fmt: skip
    return weights


def extract(trained, images_file, shard, device="cpu", listed=None):
    settings = {
        **{"shard_images": 60, "token_images": None, "gallery_images": 2, "attention": True},
        **{"sub_blocks": False, "precision": "float32", "storage": "float16", "codec": "none"},
        **{"keep_bits": None, "skip_unreadable": False},
    }
    fingerprint = images.fingerprint(images.read(images_file).table)
    spec = {"settings": settings, "images": listed or fingerprint}
    arguments = [
        "--batch",
        32,
        "--images",
        images_file,
        "--model",
        trained,
        "--output",
        shard,
        "--device",
        device,
    ]
    given = ["extract", "--spec", canonical(spec), "--code", "digest", *arguments]
    cli.main([str(argument) for argument in given])


def test_stages_run_one_after_another_and_verify_finds_what_was_altered(
    trained, images_file, capsys
):
    from vitals.activations import store
    from vitals.metrics import files

    model = trained.parent
    shard = model / "activations" / "0.zarr"
    extract(trained, images_file, shard / "zarr.json")  # the root file, as the workflow names it
    assert store.provenance(shard)["code"] == "digest"
    assert json.loads(store.provenance(shard)["spec"])["settings"]["storage"] == "float16"

    result = model / "metrics" / "similarity.nc"
    result.parent.mkdir()
    spec = canonical({"bootstrap_samples": 100, "bootstrap_seed": 0})
    cli.main(["metric", "similarity", "--spec", spec, "--code", "abc",
              "--activations", str(shard), "--output", str(result)])  # fmt: skip
    found = files.read(result)
    assert found.attrs["spec"] == spec
    assert found.attrs["code"] == "abc"
    assert found.sizes["image"] == 60

    cli.main(["verify", str(model)])
    made = capsys.readouterr().out.splitlines()
    stages = [line.split(":")[0] for line in made]
    assert stages == ["vitals extract", "vitals metric", "vitals verify"]
    chunk = shard / "tokens" / "attention" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 4
    chunk.write_bytes(content)
    message = refused(capsys, "verify", model)
    torn = "tokens/attention/c/1/0/0/0: its bytes do not give its checksum"
    assert message == f"vitals verify: not what was written: {shard}: {torn}"
    message = refused(
        capsys, "metric", "attention", "--spec", "{}", "--activations", shard, "--output", result
    )
    assert str(shard) in message
    assert "tokens/attention/c/1/0/0/0" in message


def test_a_list_of_other_images_than_the_shard_is_of_is_refused(trained, images_file):
    with pytest.raises(SystemExit, match=r"does not list the images of shard 0: list them again"):
        extract(trained, images_file, trained.parent / "0.zarr", listed="other")


def test_a_shard_is_named_by_its_number(trained, images_file):
    with pytest.raises(SystemExit, match=r"first.zarr is no name of a shard: expected 0.zarr"):
        extract(trained, images_file, trained.parent / "first.zarr")


def test_an_unknown_device_is_one_line(images_file, trained):
    with pytest.raises(SystemExit, match=r"vitals extract: device 'gpu': [^\n]*\Z"):
        extract(trained, images_file, trained.parent / "0.zarr", device="gpu")


def test_the_plan_says_shapes_disk_and_time_before_anything_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = {
        "study": "planned",
        "images": {"dataset": "digits", "limit": 200},
        "activations": {"shard_images": 60, "token_images": 50},
        "interventions": {"images": 50},
        "models": {
            "vit": {
                "architecture": "vit_tiny_patch16_224",
                "options": {**{"img_size": 8, "patch_size": 2, "in_chans": 1}, "depth": 2},
            }
        },
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    cli.main(["plan", "study.yaml", "--device", "cpu"])
    said = capsys.readouterr().out
    tokens = 100 * 17 * (5 * 192 + 2 * 17) * 2  # images, tokens, (taps, channels; blocks, keys)
    assert float(said.split("tokens GB")[1].split()[0]) == pytest.approx(tokens / 1e9, rel=0.01)
    assert "17 × 192" in said
    assert said.split("shards")[1].split()[0] == "4"
    assert said.splitlines()[-1].startswith("vitals plan: 200 images, ")
    assert "further pass" not in said
    trained, intervening = (
        float(said.split(f"\n{row} ")[1].split()[0]) for row in ("training", "intervening")
    )
    assert trained > intervening > 0
    assert list((tmp_path / "artifacts" / "planned").iterdir()) == []


def test_the_plan_of_streamed_metrics_says_what_their_own_passes_take(tmp_path):
    from vitals import plan
    from vitals.study import Study

    study = Study(
        {
            "study": "streamed",
            "images": {"dataset": "digits", "limit": 1200},
            "activations": {"tokens": "stream", "token_images": 20},
            "models": {
                "vit": {"architecture": "vit_tiny_patch16_224"},
                "twin": {"architecture": "deit_tiny_patch16_224"},
            },
        },
        artifacts=tmp_path,
    )
    study.folder.mkdir(parents=True)
    none = {"tokens GB": 0.0, "training": 0.0, "intervening": 0.0}
    planned = pd.DataFrame({**none, "minutes": 1.0, "pass alone/s": [20.0, 10.0]})
    said = plan.verdict(study, planned)
    assert said.startswith("1200 images, 0.00 GB") and "2.0 minutes" in said
    assert "training" not in said and "intervening" not in said
    assert "for each of similarity, position, attention: each 3.0 minutes" in said
