"""Who may know whom, how large a file may grow, and what no file may say."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IMPORT_NAMES = {path.parts[-4]: path.parts[-2] for path in sorted(ROOT.glob("packages/*/src/*/__init__.py"))}
PAPERS = set(IMPORT_NAMES.values()) - {"rnncore"}


def repository_files() -> list[Path]:
    """Every file that is or may be committed; in a copy without git, every file outside hidden and output folders."""
    git = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(git, capture_output=True, text=True, check=False) if (ROOT / ".git").exists() else None
    if listed is not None and listed.returncode == 0:
        return [path for name in set(listed.stdout.split("\0")) - {""} if (path := ROOT / name).is_file()]
    skipped = {"__pycache__", "runs", "build", "dist"}
    found = (path for path in ROOT.rglob("*") if path.is_file())
    return [
        path
        for path in found
        if not any(part in skipped or part.startswith(".") for part in path.relative_to(ROOT).parts[:-1])
    ]


FILES = sorted(repository_files())
CODE = [path for path in FILES if path.suffix in {".py", ".cpp"} and path.parts[len(ROOT.parts)] != "tests"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(source: str) -> set[str]:
    """The top-level modules that a source text imports anywhere in it, functions included."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def imported_below(folder: Path) -> dict[str, set[str]]:
    return {name_of(path): imported(path.read_text("utf8")) for path in sorted(folder.rglob("*.py"))}


def distribution(requirement: str) -> str:
    """The normal form of the name that a requirement begins with."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement, maxsplit=1)[0]).lower()


def oversized_functions(source: str, most: int) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    sizes = ((node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions)
    return [f"{name} has {size} lines" for name, size in sizes if size > most]


def test_the_checks_see_what_they_look_for() -> None:
    source = "import a.b as c\nfrom . import near\ndef f():\n    from d.e import g\n    return g\n"
    assert imported(source) == {"a", "d"}
    assert oversized_functions(source, most=2) == ["f has 3 lines"]
    assert distribution("Some_Name[extra]>=1.0; os_name == 'posix'") == "some-name"
    assert name_of(Path(__file__).resolve()) in map(name_of, FILES)


def test_core_imports_no_paper_package() -> None:
    found = imported_below(ROOT / "packages/core")
    assert {name: both for name, modules in found.items() if (both := modules & PAPERS)} == {}


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_core_does_not_speak_of(paper: str) -> None:
    word = re.compile(rf"\b{paper}(?:\b|[-_])", re.IGNORECASE)
    files = [path for path in FILES if name_of(path).startswith("packages/core/")]
    assert [name_of(path) for path in files if word.search(path.read_text("utf8"))] == []


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_a_paper_package_imports_no_other(paper: str) -> None:
    others = PAPERS - {paper}
    found = imported_below(ROOT / "packages" / paper)
    assert {name: both for name, modules in found.items() if (both := modules & others)} == {}


@pytest.mark.parametrize("package", sorted(IMPORT_NAMES))
def test_tests_of_a_package_import_only_it_and_the_core(package: str) -> None:
    foreign = set(IMPORT_NAMES.values()) - {"rnncore", IMPORT_NAMES[package]}
    found = imported_below(ROOT / "tests" / package)
    assert {name: both for name, modules in found.items() if (both := modules & foreign)} == {}


@pytest.mark.parametrize("package", sorted(IMPORT_NAMES))
def test_every_import_is_declared(package: str) -> None:
    folder = ROOT / "packages" / package
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf8"))["project"]
    extras = project.get("optional-dependencies", {}).values()
    declared = {distribution(text) for group in [project["dependencies"], *extras] for text in group}
    provided_by = importlib.metadata.packages_distributions()
    undeclared = {
        f"{file} imports {module}"
        for file, modules in imported_below(folder / "src").items()
        for module in modules - set(sys.stdlib_module_names) - {IMPORT_NAMES[package]}
        if declared.isdisjoint(map(distribution, provided_by.get(module, [module])))
    }
    assert undeclared == set()


def test_no_file_outgrows_its_reader() -> None:
    lengths = {name_of(path): len(path.read_text("utf8").splitlines()) for path in CODE}
    assert {name: length for name, length in lengths.items() if length > 300} == {}


def test_no_function_outgrows_its_reader() -> None:
    sources = {name_of(path): path.read_text("utf8") for path in CODE if path.suffix == ".py"}
    assert {name: long for name, source in sources.items() if (long := oversized_functions(source, most=60))} == {}


def test_files_are_named_by_their_subject() -> None:
    vague = re.compile(r"(?:^|_)(?:helpers?|utils?|utilit(?:y|ies)|misc|common|stuff)(?:_|$)")
    assert [name_of(path) for path in FILES if path.suffix == ".py" and vague.search(path.stem)] == []


def lines_that_match(pattern: str) -> list[str]:
    found = []
    for path in FILES:
        try:
            lines = path.read_text("utf8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture
        found += [f"{name_of(path)}:{number}" for number, line in enumerate(lines, 1) if re.search(pattern, line)]
    return found


def test_no_file_names_a_folder_of_one_machine() -> None:
    assert lines_that_match(r"(?<![\w.~/-])/(?:home|root|Users|work|farm)/\w|[A-Z]:\\\\?Users") == []


def test_no_file_names_a_package_registry() -> None:
    assert lines_that_match(r"pypi[.]org|pythonhosted[.]org|anaconda[.](?:org|com)|download[.]pytorch[.]org") == []
