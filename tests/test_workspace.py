"""Each package is whole: it imports, its commands exist, its documents and pins agree with its declaration."""

import importlib
import pkgutil
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
IMPORT_NAMES = {path.parts[-4]: path.parts[-2] for path in sorted(ROOT.glob("packages/*/src/*/__init__.py"))}
each_package = pytest.mark.parametrize("package", sorted(IMPORT_NAMES))


def project_of(package: str) -> dict[str, Any]:
    """The table `project` of a package's pyproject.toml."""
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text("utf8"))["project"]


def test_the_list_of_packages_is_complete() -> None:
    assert {path.parent.name for path in (ROOT / "packages").glob("*/pyproject.toml")} == set(IMPORT_NAMES)


@each_package
def test_every_module_imports(package: str) -> None:
    top = importlib.import_module(IMPORT_NAMES[package])
    assert top.__doc__
    for module in pkgutil.walk_packages(top.__path__, f"{top.__name__}."):
        assert importlib.import_module(module.name).__doc__, f"{module.name} does not say what it is for"


@each_package
def test_the_installed_package_is_typed(package: str) -> None:
    folder = Path(importlib.import_module(IMPORT_NAMES[package]).__path__[0])
    assert (folder / "py.typed").is_file()


@each_package
def test_the_licence_goes_into_the_package(package: str) -> None:
    assert (ROOT / "packages" / package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_package
def test_the_readme_bears_the_package_name(package: str) -> None:
    readme = (ROOT / "packages" / package / "README.md").read_text("utf8")
    assert readme.startswith(f"# {project_of(package)['name']}\n")


@each_package
def test_declared_commands_can_be_called(package: str) -> None:
    for command, target in project_of(package).get("scripts", {}).items():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), f"{command} is not {target}"


@each_package
def test_a_package_not_yet_built_declares_no_command(package: str) -> None:
    source = ROOT / "packages" / package / "src" / IMPORT_NAMES[package]
    built = {path.name for path in source.rglob("*.py")} != {"__init__.py"}
    says_so = "**Not built yet.**" in (ROOT / "packages" / package / "README.md").read_text("utf8")
    assert built != says_so
    assert built or "scripts" not in project_of(package)


@each_package
def test_every_dependency_has_its_reason(package: str) -> None:
    text = (ROOT / "packages" / package / "pyproject.toml").read_text("utf8")
    listed = re.findall(r"^    \"[\w.-]+.*$", text, re.MULTILINE)
    assert len(listed) >= len(project_of(package)["dependencies"])
    assert [line for line in listed if not re.search(r"\",  # \w", line)] == []


@each_package
def test_every_dependency_is_pinned_within_its_range(package: str) -> None:
    lines = (ROOT / "constraints.txt").read_text("utf8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in map(Requirement, project_of(package)["dependencies"]):
        if requirement.name != "rnncore":
            assert pins[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("session", ["demo", "tests"])
def test_the_readme_first_names_a_complete_command_for(session: str) -> None:
    lines = (ROOT / "README.md").read_text("utf8").splitlines()
    first = next(line for line in lines if re.search(rf"nox.*-s {session}", line))
    prepare = "python3 -m venv .venv && .venv/bin/python -m pip install --quiet nox"
    assert first == f"{prepare} && .venv/bin/nox -s {session}"


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("packages/*/README.md")]
    links = [
        (document, link)
        for document in documents
        for link in re.findall(r"\]\(([^)#\s]+)", document.read_text("utf8"))
        if not link.startswith(("https:", "http:"))
    ]
    assert links
    assert [f"{document.name}: {link}" for document, link in links if not (document.parent / link).exists()] == []


def test_the_example_in_the_readme_runs() -> None:
    example = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf8"), re.MULTILINE | re.DOTALL)
    assert example
    names: dict[str, Any] = {}
    exec(example[1], names)
    assert all(parameter.grad.abs().sum() > 0 for parameter in names["rnn"].parameters())
