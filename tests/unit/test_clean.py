"""What no study needs is found, said with what it frees, and removed when that is wanted."""

import fcntl
import io
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from vitals import clean, cli
from vitals.activations.claim import claimed
from vitals.catalogue import FIGURES
from vitals.errors import VitalsError

ARCHITECTURE = "vit_tiny_patch16_224"
OPTIONS = {"img_size": 8, "patch_size": 2, "in_chans": 1, "depth": 2}
KILOBYTES = 64


def settings(name, models=("vit",), limit=60):
    """A study of digits, thirty images a shard."""
    return {
        "study": name,
        "images": {"dataset": "digits", "limit": limit},
        "models": {model: {"architecture": ARCHITECTURE, "options": OPTIONS} for model in models},
        "activations": {"shard_images": 30},
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with config.yaml of the study `one`: a model `vit` of two shards."""
    monkeypatch.chdir(tmp_path)
    write_study("config.yaml", settings("one"))
    for file in NEEDED:
        put(f"artifacts/one/{file}")
    return tmp_path


NEEDED = (
    ".images.parquet.stamps", "summary.csv", "notes.txt",
    "vit/model.safetensors", "vit/model.json", "vit/logs/extract_7.log",
    "vit/activations/0.zarr/zarr.json", "vit/activations/1.zarr/tokens/c/0",
    "vit/metrics/similarity.nc", "vit/metrics/own.txt",
    "vit/intervene.nc", "vit/variants/attention_off/1.zarr/zarr.json", "depth.csv",
    "compare/similarity.nc", "compare/sweep.nc", "figures/comparison.svg", "figures/comparison.csv",
    "logs/images.log", "decoded/a.npy", "papers/mine.pdf",
)  # fmt: skip


def write_study(file, study):
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text(yaml.safe_dump(study))


def put(file, aged=True):
    """A file of 64 kB, of yesterday unless it is not to be aged."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(KILOBYTES * 1024))
    if aged:
        os.utime(path, (time.time() - 86400,) * 2)
    return path


def found(*files, **choices):
    """What is not needed, by its path in the artifacts."""
    studies = clean.in_reach([Path(file) for file in files])
    return [str(item.path.relative_to("artifacts")) for item in clean.unneeded(studies, **choices)]


@contextmanager
def locked(file):
    """Another job that holds the lock of a file."""
    with open(file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_what_a_study_needs_and_what_nobody_knows_stays(here):
    for figure in FIGURES.values():
        put(f"artifacts/one/figures/{figure.name}.pdf")
        for metric in figure.metrics:
            put(f"artifacts/one/{'compare' if figure.compared else 'vit/metrics'}/{metric}.nc")
    assert found() == []


@pytest.mark.parametrize(
    ("file", "item"),
    [
        ("one/old/model.json", "one/old"),
        ("one/old/logs/train.log", "one/old"),
        ("one/vit/activations/2.zarr/zarr.json", "one/vit/activations/2.zarr"),
        ("one/vit/activations/10.zarr/zarr.json", "one/vit/activations/10.zarr"),
        ("one/vit/metrics/vanished.nc", "one/vit/metrics/vanished.nc"),
        ("one/compare/vanished.nc", "one/compare/vanished.nc"),
        ("one/figures/vanished.png", "one/figures/vanished.png"),
        ("one/.images.parquet.partial", "one/.images.parquet.partial"),
        ("one/vit/.model.json.partial", "one/vit/.model.json.partial"),
        ("one/vit/metrics/.probes.nc.partial", "one/vit/metrics/.probes.nc.partial"),
        (
            "one/vit/activations/.1.zarr.partial/tokens/c/0",
            "one/vit/activations/.1.zarr.partial",
        ),
    ],
)
def test_what_no_study_needs_goes_and_nothing_else(here, file, item):
    put(f"artifacts/{file}")
    assert found() == [item]
    cli.main(["clean", "--yes"])
    assert not Path("artifacts", item).exists()
    assert all(Path("artifacts", "one", needed).is_file() for needed in NEEDED)
    assert found() == []


def test_prepared_images_go_where_that_is_asked_for(here):
    assert found() == []
    assert found(decoded=True) == ["one/decoded/a.npy"]


def test_what_lies_in_a_folder_that_goes_is_named_once(here):
    put("artifacts/one/old/model.json")
    put("artifacts/one/old/.model.safetensors.partial")
    assert found() == ["one/old"]


def test_a_study_of_two_files_needs_what_either_needs(here):
    write_study("studies/more.yaml", settings("one", ("vit", "other"), limit=90))
    put("artifacts/one/other/model.json")
    put("artifacts/one/vit/activations/2.zarr/zarr.json")
    put("artifacts/one/vit/activations/3.zarr/zarr.json")
    assert found() == ["one/vit/activations/3.zarr"]
    assert found("config.yaml") == [
        "one/other", "one/vit/activations/2.zarr", "one/vit/activations/3.zarr"
    ]  # fmt: skip


def test_the_folder_of_an_unknown_study_is_touched_when_it_is_named_alone(here):
    put("artifacts/former/vit/model.json")
    put("artifacts/former/.partial")
    assert found() == []
    assert found(gone=["former"]) == ["former"]
    cli.main(["clean", "--gone", "former", "--yes"])
    assert [path.name for path in Path("artifacts").iterdir()] == ["one"]


@pytest.mark.parametrize("name", ["one", "", ".", "..", "../outside", "one/vit", "nowhere"])
def test_a_name_that_is_no_unknown_study_is_refused(here, name):
    put("outside/file")
    with pytest.raises(VitalsError, match=r"is a study in reach|is no folder in artifacts"):
        found(gone=[name])


def test_a_study_whose_images_are_not_here_is_left_alone(here, capsys):
    away = settings("one", ("other",))
    away["images"] = {"dataset": "folder", "path": "/nowhere"}
    write_study("studies/away.yaml", away)
    put("artifacts/one/old/model.json")
    assert found() == []  # whatever the other file of that name says
    assert capsys.readouterr().out.startswith(
        "artifacts/one is left alone, studies/away.yaml cannot be read here: "
    )
    with pytest.raises(VitalsError, match=r"^studies/away.yaml: "):
        found("studies/away.yaml")


def test_no_study_in_reach_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitalsError, match="no study in reach: expected config"):
        found()


def test_what_lies_behind_a_link_is_left_alone(here):
    kept = put("elsewhere/vit/model.json")
    for link in ("one/old", "one/vit/activations/5.zarr", "linked"):
        Path("artifacts", link).symlink_to(here / "elsewhere" / "vit")
    assert found(gone=["linked"]) == []
    put("artifacts/one/old2/model.json")
    Path("artifacts/one/old2/weights").symlink_to(here / "elsewhere")
    cli.main(["clean", "--yes"])
    assert not Path("artifacts/one/old2").exists()
    assert kept.is_file()


@pytest.mark.parametrize(
    ("file", "lock"),
    [
        ("one/old/activations/0.zarr/zarr.json", "one/old/activations/.1.zarr.lock"),
        ("one/vit/activations/2.zarr/zarr.json", "one/vit/activations/.2.zarr.lock"),
        ("one/vit/activations/.1.zarr.partial/c", "one/vit/activations/.1.zarr.lock"),
        ("one/decoded/a.npy", "one/decoded/a.lock"),
        ("one/decoded/.b.npy.partial", "one/decoded/b.lock"),
    ],
)
def test_what_a_running_job_holds_stays_until_it_has_ended(here, capsys, file, lock):
    path = put(f"artifacts/{file}")
    with locked(Path("artifacts", lock)):
        cli.main(["clean", "--decoded", "--yes"])
        assert path.is_file()
        assert "is in use, and left alone" in capsys.readouterr().out
    cli.main(["clean", "--decoded", "--yes"])
    assert not path.exists()


@pytest.mark.parametrize("file", ["vit/metrics/.probes.nc.partial", "old/.model.json.partial"])
def test_a_file_that_was_written_to_a_moment_ago_is_in_use(here, file):
    path = put(f"artifacts/one/{file}", aged=False)
    cli.main(["clean", "--yes"])
    assert path.is_file()


def test_a_shard_that_a_job_begins_meanwhile_stays(here):
    path = put("artifacts/one/vit/activations/2.zarr/zarr.json").parent
    with claimed(path), pytest.raises(VitalsError, match="is being written by another run"):
        clean.remove(path)
    assert path.is_dir()


def test_a_file_of_two_names_is_freed_with_the_last_of_them(here):
    shard = put("artifacts/one/old/activations/0.zarr/chunk")
    needed = Path("artifacts/one/vit/activations/0.zarr/chunk")
    os.link(shard, needed)
    other = put("artifacts/one/older/activations/0.zarr/chunk")
    Path("artifacts/one/old/activations/1.zarr").mkdir()
    os.link(other, "artifacts/one/old/activations/1.zarr/chunk")
    items = clean.unneeded(clean.in_reach())
    assert [item.path.name for item in items] == ["old", "older"]
    before = blocks(Path("artifacts"))
    sizes = clean.freed(items)
    assert sizes[0] < KILOBYTES * 1024 <= sizes[1]
    cli.main(["clean", "--yes"])
    assert before - blocks(Path("artifacts")) == sum(sizes)
    assert needed.read_bytes()


def blocks(folder):
    """Bytes on disk of all that lies below a folder, each file once."""
    nodes = {path.stat().st_ino: path.stat().st_blocks for path in folder.rglob("*")}
    return sum(nodes.values()) * 512


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("answer", "removed"),
    [(Terminal("y\n"), True), (Terminal("\n"), False), (io.StringIO("y\n"), False)],
)
def test_what_goes_is_said_first_and_asked(here, capsys, monkeypatch, answer, removed):
    put("artifacts/one/old/model.json")
    monkeypatch.setattr("sys.stdin", answer)
    cli.main(["clean"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(" MB  artifacts/one/old: a model that no study names")
    assert Path("artifacts/one/old").exists() != removed
    assert ("vitals clean: 1 removed, " in said[-1]) == removed
    assert ("vitals clean: nothing was removed; with --yes it frees " in said[-1]) != removed
