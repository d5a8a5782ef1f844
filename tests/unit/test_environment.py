"""One lock pins every package; the conda files and the library's own needs agree with it."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
LOCK = REPOSITORY / "envs" / "lock.txt"
SETTINGS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT, BUILD = SETTINGS["project"], SETTINGS["build-system"]["requires"]


def locked():
    pins = (line.split("==") for line in LOCK.read_text().splitlines() if "==" in line)
    return {canonicalize_name(name): version for name, version in pins}


@pytest.mark.parametrize("name", ["vitals", "workflow"])
def test_conda_files_name_the_versions_of_the_lock(name):
    file = yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text())
    (pip,) = [part["pip"] for part in file["dependencies"] if isinstance(part, dict)]
    pins = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pip}
    assert pins == {package: locked()[package] for package in pins}


@pytest.mark.parametrize(
    ("file", "needs"),
    [
        ("vitals", PROJECT["dependencies"]),
        *(("vitals", PROJECT["optional-dependencies"][extra]) for extra in ("dask", "s3")),
        ("workflow", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["workflow"]),
    ],
)
def test_what_the_library_needs_is_in_the_conda_files_and_satisfied_by_the_lock(file, needs):
    text = (REPOSITORY / "envs" / f"{file}.yaml").read_text()
    for need in map(Requirement, needs):
        version = locked()[canonicalize_name(need.name)]
        assert need.specifier.contains(version), need
        assert f"- {canonicalize_name(need.name)}=={version}\n" in text


def test_the_lock_holds_versions_alone():
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!]+", line) for line in lines)


DOCKER, APPTAINER = (REPOSITORY / "envs" / name for name in ("Dockerfile", "vitals.def"))
INSTALL = re.compile(r"pip install .*$", re.MULTILINE)


def test_images_have_the_same_python_as_the_lock_and_the_conda_files():
    bases = {
        re.search(r"^FROM (.+)$", DOCKER.read_text(), re.MULTILINE)[1],
        re.search(r"^From: (.+)$", APPTAINER.read_text(), re.MULTILINE)[1],
    }
    assert len(bases) == 1
    (python,) = re.findall(r"^python:(\d+\.\d+)-", bases.pop())
    assert f"for Python {python}:" in LOCK.read_text()
    for name in ("vitals", "workflow"):
        file = yaml.safe_load((REPOSITORY / "envs" / f"{name}.yaml").read_text())
        assert f"python={python}" in file["dependencies"]


def test_images_install_the_lock_and_nothing_else():
    docker, apptainer = (INSTALL.findall(file.read_text()) for file in (DOCKER, APPTAINER))
    assert docker == apptainer
    lock, library = docker
    assert lock.split()[-2:] == ["--requirement", "/opt/vitals/envs/lock.txt"]
    assert {"--no-deps", "--no-build-isolation"} < set(library.split())
    # without isolation the lock must hold what builds it
    assert {canonicalize_name(Requirement(need).name) for need in BUILD} <= locked().keys()


def test_what_images_copy_is_there_and_all_that_an_installation_needs():
    docker = re.findall(r"^COPY (.+) (\S+)$", DOCKER.read_text(), re.MULTILINE)
    copied = {source for sources, _ in docker for source in sources.split()}
    section = APPTAINER.read_text().partition("%files\n")[2].partition("\n\n")[0]
    assert {line.split()[0] for line in section.splitlines()} == copied
    assert all((REPOSITORY / source).exists() for source in copied)
    assert {"pyproject.toml", "README.md", "LICENSE", "workflow", "envs/lock.txt"} == copied


def test_an_installed_library_has_its_command_and_knows_nothing_of_snakemake(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(REPOSITORY / "workflow", source / "workflow", ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    install = "install --quiet --no-deps --no-build-isolation --no-warn-script-location --target"
    subprocess.run(
        [sys.executable, "-m", "pip", *install.split(), site, source],
        check=True,
    )
    code = "import sys, vitals, vitals.cli; print(vitals.__file__, 'snakemake' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == [str(site / "vitals" / "__init__.py"), "False"]
    assert (site / "bin" / "vitals").is_file()
