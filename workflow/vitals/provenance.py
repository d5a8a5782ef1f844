"""Fingerprints of settings, code, weights and images: what a result was made from."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent
# The packages that compute numbers, by the name that is imported.
PACKAGES = {
    "PIL": "pillow",
    "numcodecs": "numcodecs",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "timm": "timm",
    "torch": "torch",
    "xarray": "xarray",
    "zarr": "zarr",
}


def canonical(settings: Any) -> str:
    """JSON of settings with one spelling: sorted keys, no spaces.

    >>> canonical({"b": 1, "a": [True, None]})
    '{"a":[true,null],"b":1}'
    """
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_of(data: bytes) -> str:
    """The digest that the project uses throughout: SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def short_digest(data: bytes) -> str:
    """Its first 64 bits, where only accidents are to be told apart."""
    return digest_of(data)[:16]


def versions() -> dict[str, str]:
    """Versions of the packages that compute numbers."""
    return {package: _version(package) for package in PACKAGES.values()}


@cache
def _version(package: str) -> str:
    return metadata.version(package)


def code_digest(modules: Iterable[str]) -> str:
    """Digest of the library modules that these modules reach through imports, and of themselves.

    A module reaches what it imports, at its head or inside a function, and the packages it is in.
    It is taken over the syntax tree without docstrings, so that a comment, the formatting, a touch
    or another place of the checkout change nothing, and an edit of what runs changes it. The
    versions of the packages that compute numbers, where they are reached, are part of it.
    """
    return short_digest(canonical(code_parts(modules)).encode())


def code_parts(modules: Iterable[str]) -> dict[str, str]:
    """What `code_digest` is of: a digest of each module, and the version of each package."""
    reached = sorted(_reach(modules))  # the same bytes from each process
    packages = set().union(*(_packages(name) for name in reached))
    return {
        **{name: _syntax_digest(name) for name in reached},
        # a build for another device ("+cpu") is the same release
        **{name: _version(name).split("+")[0] for name in sorted(packages)},
    }


def _reach(modules: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        if _source(name) is None:
            raise ModuleNotFoundError(f"no module {name} in {LIBRARY}")
        found.add(name)
        waiting.extend(_imports(name))
        if "." in name:
            waiting.append(name.rpartition(".")[0])  # importing a module runs its package
    return found


def _source(name: str) -> Path | None:
    """The file of a module of the library, None for a name that is no module of it."""
    package, *parts = name.split(".")
    if package != LIBRARY.name:
        return None
    base = LIBRARY.joinpath(*parts)
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


@cache
def _tree(name: str) -> ast.Module:
    """The syntax of a module, without docstrings."""
    source = _source(name)
    assert source is not None
    tree = ast.parse(source.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            node.body = body[1:]
    return tree


def _imports(name: str) -> list[str]:
    """Modules of the library that a module imports."""
    return [imported for imported in _imported(name) if _source(imported) is not None]


def _packages(name: str) -> set[str]:
    """Packages that compute numbers among what a module imports."""
    roots = {imported.split(".")[0] for imported in _imported(name)}
    return {package for root, package in PACKAGES.items() if root in roots}


@cache
def _imported(name: str) -> tuple[str, ...]:
    """The names that a module imports, at its head or inside a function."""
    names: set[str] = set()
    for node in ast.walk(_tree(name)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(sorted(names))


@cache
def _syntax_digest(name: str) -> str:
    return digest_of(ast.dump(_tree(name)).encode())[:12]


def _is_docstring(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
