"""A tar is the folder that it was made of, read in place."""

import io
import tarfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from vitals.data.folder import Folder
from vitals.data.tar import Tar
from vitals.errors import VitalsError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
WITHOUT_STAMP = ["image_id", "index", "path", "label"]


def add(archive, name, content=b"", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("prefix", [".", "/"])
def test_a_tar_lists_and_reads_what_the_folder_does(class_folder, tar_of, format, prefix):
    times = 10 if format == "ustar" else 30
    long = class_folder / "cat" / ("long " * times) / ("é" * times)
    long.mkdir(parents=True)
    (long / f"{'deep' * times}.jpg").write_bytes(b"deep")
    folder = Folder(str(class_folder))
    tar = Tar(str(tar_of(class_folder, FORMATS[format], prefix=prefix)))
    expected, found = folder.listing(), tar.listing()
    assert tar.classes == folder.classes
    assert found[WITHOUT_STAMP].equals(expected[WITHOUT_STAMP])
    for path in found["path"]:
        assert tar.read(path, 0) == folder.read(path, 0)


@pytest.mark.parametrize("format", FORMATS)
def test_headers_are_read_as_the_standard_library_reads_them(class_folder, tar_of, format):
    path = tar_of(class_folder, FORMATS[format])
    members = Tar(str(path))._scanned[0]
    with tarfile.open(path) as archive:
        expected = {
            member.name.removeprefix("./"): (
                member.offset_data,
                member.size,
                f"{member.size}-{member.mtime}",
            )
            for member in archive
            if member.isfile()
        }
    assert members == expected


def test_stamps_do_not_know_where_in_the_tar_a_member_lies(class_folder, tar_of):
    before = Tar(str(tar_of(class_folder))).listing()
    (class_folder / "aardvark").mkdir()
    (class_folder / "aardvark" / "0.jpg").write_bytes(b"first in the tar")
    after = Tar(str(tar_of(class_folder, name="other.tar"))).listing()
    stamps = after.set_index("image_id")["stamp"]
    assert stamps[before["image_id"]].tolist() == before["stamp"].tolist()


def test_the_last_member_of_a_name_counts(tmp_path):
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "ant/0.jpg", b"old")
        add(archive, "ant/0.jpg", b"newer")
    tar = Tar(str(path))
    assert tar.listing()["image_id"].tolist() == ["ant/0.jpg"]
    assert tar.read("ant/0.jpg", 0) == b"newer"


def read_all(path):
    tar = Tar(str(path))
    return [tar.read(member, 0) for member in tar.listing()["path"]]


def test_threads_and_processes_read_the_same(class_folder, tar_of):
    path = tar_of(class_folder)
    expected = read_all(path)
    tar = Tar(str(path))
    members = tar.listing()["path"].tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda member: tar.read(member, 0), members * 50))
    assert found == expected * 50
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(read_all, [path] * 2)) == [expected] * 2


def test_hidden_members_are_not_looked_at(class_folder, tar_of):
    (class_folder / "ant" / "._0.jpg").write_bytes(b"")
    (class_folder / ".cache").mkdir()
    assert len(Tar(str(tar_of(class_folder))).listing()) == 15


def test_a_class_of_the_tar_without_an_image_is_named(class_folder, tar_of):
    (class_folder / "dog").mkdir()
    with pytest.raises(VitalsError, match="the class 'dog' has no image"):
        Tar(str(tar_of(class_folder))).listing()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_place_of_an_image_is_named(tmp_path, kind):
    path = tmp_path / "links.tar"
    with tarfile.open(path, "w") as archive:
        add(archive, "ant/0.jpg", b"image")
        add(archive, "ant/1.jpg", type=kind, linkname="ant/0.jpg")
    with pytest.raises(VitalsError, match=r"links.tar': the member 'ant/1.jpg' is a link"):
        Tar(str(path)).listing()


@pytest.mark.parametrize("kind", ["compressed", "cut", "text", "damaged"])
def test_what_is_no_whole_plain_tar_is_named(class_folder, tar_of, kind):
    path = tar_of(class_folder, compressed="gz" if kind == "compressed" else "")
    content = bytearray(path.read_bytes())
    if kind == "cut":
        content = content[: len(content) // 2 + 100]
    elif kind == "text":
        content = b"no tar\n" * 1000
    elif kind == "damaged":
        with tarfile.open(path) as archive:
            content[archive.getmembers()[3].offset + 130] ^= 1
    path.write_bytes(content)
    with pytest.raises(VitalsError, match="expected a whole tar without compression"):
        Tar(str(path)).listing()


@pytest.mark.parametrize(("kind", "found"), [("nothing", "nothing"), ("folder", "a folder")])
def test_a_path_that_is_no_file_is_named(tmp_path, kind, found):
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(VitalsError, match=f"expected a tar of class folders, found {found}"):
        Tar(str(path)).listing()


def test_a_member_that_is_gone_cannot_be_read(class_folder, tar_of):
    with pytest.raises(OSError, match=r"no member ant/9\.jpg"):
        Tar(str(tar_of(class_folder))).read("ant/9.jpg", 0)
