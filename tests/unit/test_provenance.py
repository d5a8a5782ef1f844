"""What the digest of a stage's code follows, and what it does not."""

import ast
import shutil
from pathlib import Path

import pytest

from vitals import provenance
from vitals.catalogue import FIGURES, METRICS, STAGE_MODULES

PROBES = ("vitals.metrics.probes",)
STAGES = {
    **STAGE_MODULES,
    **{f"metric {name}": metric.modules for name, metric in METRICS.items()},
    **{f"figure {name}": figure.modules for name, figure in FIGURES.items()},
}


def forget():
    """Read the library again: within one process it does not change, but in these tests."""
    for cached in (provenance._tree, provenance._imported, provenance._syntax_digest):
        cached.cache_clear()


def digest(modules=PROBES):
    forget()
    return provenance.code_digest(modules)


def digests():
    """The digest of every stage."""
    forget()
    return {stage: provenance.code_digest(modules) for stage, modules in STAGES.items()}


@pytest.fixture(scope="module")
def before():
    """The digest of every stage, as the library stands."""
    return digests()


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A copy of the library at another place, to edit."""
    copy = tmp_path / "elsewhere" / "vitals"
    shutil.copytree(provenance.LIBRARY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "LIBRARY", copy)
    yield copy
    monkeypatch.undo()
    forget()


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    """A library of a few lines, written by the test: write(name, source)."""
    monkeypatch.setattr(provenance, "LIBRARY", tmp_path / "vitals")

    def write(**sources):
        for name, source in sources.items():
            path = tmp_path / "vitals" / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
            for package in (tmp_path / "vitals", path.parent):
                (package / "__init__.py").touch()

    yield write
    monkeypatch.undo()
    forget()


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_place_of_the_library_changes_nothing(before, library):
    assert digests() == before


def test_comments_docstrings_and_formatting_change_nothing(library):
    before = digest()
    module = library / "metrics" / "probes.py"
    module.write_text(f"# a comment\n\n\n{ast.unparse(ast.parse(module.read_text()))}\n")
    assert digest() == before
    edit(module, '"""', '"""Another first line. ')
    assert digest() == before
    module.touch()
    assert digest() == before


def test_an_edit_of_what_runs_reruns_what_reaches_it_and_nothing_else(before, library):
    edit(library / "metrics" / "token_similarity.py", "ZERO_NORM = 1e-6", "ZERO_NORM = 2e-6")
    changed = dict(digests().items() - before.items()).keys()
    assert changed == {"metric similarity", "intervene"}  # it follows similarity too


def test_an_edit_of_what_all_share_reruns_all(before, library):
    with (library / "__init__.py").open("a") as file:
        file.write("\nADDED = 1\n")
    assert not before.items() & digests().items()


@pytest.mark.parametrize(
    ("module", "reran", "kept"),
    [
        ("data/digits", {"images", "train", "load", "extract"}, {"metric similarity", "summary"}),
        ("models/training", {"train", "load"}, {"images", "extract", "metric probes"}),
        ("activations/capture", {"extract"}, {"images", "train", "metric similarity"}),
        ("activations/reader", {"extract", "metric similarity"}, {"train", "metric phases"}),
        ("figures/files", {f"figure {name}" for name in FIGURES}, {"extract", "metric probes"}),
        ("metrics/files", {"metric similarity", "compare", "summary"}, {"train", "extract"}),
        ("cli", set(), set(STAGES)),
    ],
)
def test_each_stage_follows_the_modules_that_it_runs(before, library, module, reran, kept):
    with (library / f"{module}.py").open("a") as file:
        file.write("\nADDED = 1\n")
    changed = dict(digests().items() - before.items()).keys()
    assert reran <= changed
    assert not kept & changed


@pytest.mark.parametrize(
    "importing",
    [
        "import vitals.b",
        "from vitals import b",
        "from vitals.b import x",
        "def late():\n    from vitals.b import x\n",
        "def late():\n    import vitals.b as other\n",
        "try:\n    import vitals.b\nexcept ImportError:\n    pass\n",
        "import vitals.c",
    ],
)
def test_imports_are_followed_wherever_they_stand(small_library, importing):
    small_library(a=importing, b="x = 1", c="from vitals.b import x", d="x = 1")
    before = digest(["vitals.a"])
    small_library(d="x = 2")
    assert digest(["vitals.a"]) == before
    small_library(b="x = 2")
    assert digest(["vitals.a"]) != before


def test_importing_a_module_runs_the_packages_that_it_is_in(small_library):
    small_library(metrics__a="x = 1", figures__b="x = 1")
    before = digest(["vitals.metrics.a"])
    (provenance.LIBRARY / "figures" / "__init__.py").write_text("import warnings")
    assert digest(["vitals.metrics.a"]) == before
    (provenance.LIBRARY / "metrics" / "__init__.py").write_text("import warnings")
    inner = digest(["vitals.metrics.a"])
    assert inner != before
    (provenance.LIBRARY / "__init__.py").write_text("import warnings")
    assert digest(["vitals.metrics.a"]) != inner


def test_modules_that_import_one_another_have_a_digest(small_library):
    small_library(a="import vitals.b", b="import vitals.a")
    assert digest(["vitals.a"]) == digest(["vitals.b"])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('def f():\n    """Says."""\n    return 1', "def f():\n    return (1)  # one", True),
        ('class A:\n    """Says."""\n    x = "a"', "class A:\n    x = 'a'", True),
        ('x = """text"""', 'x = """other"""', False),
        ("def f():\n    return 1", "def f():\n    return 1.0", False),
        ("def f(a, b=1): return a", "def f(a, b=2): return a", False),
        ("x = True", "x = 1", False),
    ],
)
def test_what_counts_is_what_runs(small_library, old, new, same):
    small_library(a=old)
    before = digest(["vitals.a"])
    small_library(a=new)
    assert (digest(["vitals.a"]) == before) == same


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(ModuleNotFoundError, match=r"no module vitals.nowhere"):
        provenance.code_digest(["vitals.nowhere"])


def test_canonical_settings_have_one_spelling():
    assert provenance.canonical({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        provenance.canonical(float("nan"))


def test_versions_name_what_computes_numbers():
    assert {"torch", "timm", "numpy", "zarr"} <= provenance.versions().keys()
