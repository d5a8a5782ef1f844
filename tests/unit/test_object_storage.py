"""Results on a local S3 server: read there, taken there and back, and whole or not there."""

import shutil

import boto3
import pytest
import xarray as xr
from moto.server import ThreadedMotoServer

import vitals
from small_shards import extract_all
from vitals import cli, object_storage
from vitals.data import images
from vitals.errors import VitalsError

URL = "s3://bucket/digits"
SHARDS = {"shard_images": 40, "attention": False}


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket, found by the variables that every client of S3 knows."""
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3").create_bucket(Bucket="bucket")
    yield bucket
    bucket.objects.delete()


@pytest.fixture(scope="module")
def extracted(tmp_path_factory, images_file, small_vit):
    """The folder of a model in two shards."""
    folder = tmp_path_factory.mktemp("extracted") / "vit"
    extract_all(folder, small_vit(), images.read(images_file), **SHARDS)
    return folder


@pytest.fixture
def study(tmp_path, extracted):
    """The folder of a study with a model in two shards, a result, and what stays on its machine."""
    folder = tmp_path / "digits"
    shutil.copytree(extracted, folder / "vit")
    (folder / "vit" / "metrics").mkdir()
    (folder / "vit" / "metrics" / "similarity.nc").write_bytes(b"a result")
    (folder / ".sizes.json").write_text("{}")
    (folder / "vit" / "activations" / ".2.zarr.partial").mkdir()
    (folder / "vit" / "activations" / ".2.zarr.partial" / "zarr.json").write_text("{}")
    return folder


def contents(folder):
    files = (file for file in folder.rglob("*") if file.is_file())
    named = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    return {name: content for name, content in named.items() if not is_hidden(name)}


def is_hidden(name):
    return any(part.startswith(".") for part in name.split("/"))


def keys(bucket):
    return {object.key.removeprefix("digits/") for object in bucket.objects.all()}


def test_what_was_taken_there_is_read_there(bucket, study):
    assert object_storage.push(study, URL).startswith("3 of 3 shards and files")
    assert keys(bucket) == contents(study).keys()
    there, here = vitals.open_tokens(f"{URL}/vit"), vitals.open_tokens(study / "vit")
    xr.testing.assert_identical(there.load(), here.load())
    xr.testing.assert_identical(
        vitals.open_pooled([f"{URL}/vit/activations/{n}.zarr" for n in (0, 1)]).load(),
        vitals.open_pooled(study / "vit").load(),
    )


def test_what_comes_back_is_what_was_taken(bucket, study, tmp_path):
    object_storage.push(study, URL)
    object_storage.pull(URL, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(study)
    assert object_storage.pull(URL, tmp_path / "back").startswith("0 of 3")


def test_only_what_has_changed_is_taken_again(bucket, study):
    object_storage.push(study, URL)
    assert object_storage.push(study, URL).startswith("0 of 3")
    (study / "vit" / "metrics" / "similarity.nc").write_bytes(b"b result")
    assert object_storage.push(study, URL).startswith("1 of 3")


def test_a_shard_that_is_replaced_leaves_nothing_of_the_one_before(
    bucket, study, images_file, small_vit
):
    object_storage.push(study, URL)
    other = study.with_name("other")
    extract_all(other / "vit", small_vit(depth=1), images.read(images_file), **SHARDS)
    assert object_storage.push(other, URL).startswith("2 of 2")
    assert keys(bucket) - {"vit/metrics/similarity.nc"} == contents(other).keys()


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("files", [0, 20])
def test_a_shard_whose_taking_was_cut_off_is_not_there(
    bucket, study, images_file, small_vit, monkeypatch, files, replaced
):
    if replaced:
        other = study.with_name("other")
        extract_all(other / "vit", small_vit(seed=1), images.read(images_file), **SHARDS)
        object_storage.push(other, URL)
    copy, copied = object_storage._copy, []

    def cut_off(source, target):
        if len(copied) == files:
            raise ConnectionError("the network is gone")
        copied.append(target)
        copy(source, target)

    monkeypatch.setattr(object_storage, "_copy", cut_off)
    monkeypatch.setattr(object_storage, "COPIES_AT_ONCE", 1)
    with pytest.raises(ConnectionError):
        object_storage.push(study, URL)
    assert "vit/activations/0.zarr/zarr.json" not in keys(bucket)
    with pytest.raises(VitalsError, match="is not a whole shard"):
        vitals.open_tokens(f"{URL}/vit/activations/0.zarr")
    monkeypatch.setattr(object_storage, "_copy", copy)
    object_storage.push(study, URL)
    assert keys(bucket) == contents(study).keys()


def chunk_of(folder):
    return (
        folder
        / "vit"
        / "activations"
        / "0.zarr"
        / "tokens"
        / "tokens"
        / "c"
        / "0"
        / "0"
        / "0"
        / "0"
    )


def test_a_chunk_that_is_torn_is_neither_taken_there_nor_back(bucket, study, tmp_path):
    object_storage.push(study, URL)
    name = str(chunk_of(study).relative_to(study))
    whole = chunk_of(study).read_bytes()
    torn = bytes([whole[0] ^ 1]) + whole[1:]
    bucket.put_object(Key=f"digits/{name}", Body=torn)
    with pytest.raises(VitalsError, match="do not give its checksum"):
        object_storage.pull(URL, tmp_path / "back")
    assert not (tmp_path / "back" / "vit" / "activations" / "0.zarr").exists()
    with pytest.raises(VitalsError, match="is not what was written"):
        vitals.open_tokens(f"{URL}/vit")["tokens"].load()
    with pytest.raises(SystemExit, match="do not give its checksum"):
        cli.main(["verify", f"{URL}/vit"])
    chunk_of(study).write_bytes(torn)
    bucket.objects.delete()
    with pytest.raises(VitalsError, match="is not what was written"):
        object_storage.push(study, URL)
    assert keys(bucket) == set()


def test_what_is_missing_is_named(bucket, study, tmp_path):
    with pytest.raises(VitalsError, match=rf"{URL} holds no results"):
        object_storage.pull(URL, tmp_path / "back")
    with pytest.raises(VitalsError, match=r"no shards at s3://bucket/digits/vit/activations"):
        vitals.open_tokens(f"{URL}/vit")
    with pytest.raises(VitalsError, match="is no object storage: expected s3://bucket/folder"):
        object_storage.push(study, str(tmp_path))
