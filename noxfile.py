"""Every task of this repository, each in its own environment: `nox -l` lists them.

Environments live in `.nox/` and are reused. pip runs again only when something it would read has changed,
so a second start goes straight to the work.
"""

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "virtualenv"  # comes with nox; the same on every machine, whether it has uv or not

ROOT = Path(__file__).parent
PACKAGES = ("core", "revrnn", "awdlm", "urlstm", "selfish", "rmc")
CONSTRAINTS = ROOT / "constraints.txt"

# What tests of the export to ONNX need; without it they are skipped.
ONNX = ("onnx", "onnxscript", "onnxruntime")

# A reversible GRU on the embedded corpus, sized for about two minutes on two cores.
DEMO = (
    *("--data", "pydoc", "--model", "revgru", "--use_reverse"),
    *("--emb_size", "256", "--batch_size", "20", "--bptt", "35", "--epochs", "3"),
)


@nox.session
def demo(session: nox.Session) -> None:
    """Train a reversible GRU for about two minutes and print a sample of its text."""
    install(session, *editable(("core", "revrnn")))
    run = f"runs/demo/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    session.run("revrnn-train", *DEMO, "--run_dir", run)
    session.run("revrnn-generate", "--run_dir", run)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, or those named after `--`, with all packages in one environment."""
    # Editable: an edit is tested at once, without building six packages again.
    install(session, *editable(PACKAGES), *ONNX, "pytest")
    session.run("pytest", *session.posargs)


def run_package_tests(session: nox.Session, package: str) -> None:
    """Run one package's tests where only it and what it declares is installed."""
    # Not editable: what is tested is the wheel that a user gets, so a file left out of it is missed here.
    needed = tuple(dict.fromkeys(("core", package)))
    install(session, *(f"./packages/{name}" for name in needed), "pytest", files=package_files(needed))
    suites = [folder for folder in (f"tests/{package}", "tests/commands") if (ROOT / folder).is_dir()]
    imports = f"tests/test_workspace.py::test_every_module_imports[{package}]"
    # Of tests/commands, those of this package's commands are run.
    session.run("pytest", imports, *suites, *session.posargs)


def add_package_session(package: str) -> None:
    """Define the session `tests-<package>`."""

    def run(session: nox.Session) -> None:
        run_package_tests(session, package)

    run.__doc__ = f"Run the tests of {package} with nothing installed that it does not declare."
    nox.session(name=f"tests-{package}")(run)


for _package in PACKAGES:
    add_package_session(_package)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting; `nox -s lint -- --fix` mends what can be mended."""
    install(session, "ruff")
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []))
    session.run("ruff", "format", *([] if fix else ["--check"]))


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of all packages, strictly."""
    install(session, *editable(PACKAGES), "mypy", "types-PyYAML", "types-tqdm")
    session.run("mypy", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmark named after `--` with its arguments, or all of them in their `--quick` form."""
    install(session, *editable(PACKAGES))
    if session.posargs:
        session.run("python", *session.posargs)
        return
    for script in sorted((ROOT / "benchmarks").glob("*.py")):
        session.run("python", str(script.relative_to(ROOT)), "--quick")


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the tests that need a CUDA device."""
    install(session, *editable(PACKAGES), "pytest")
    session.run("pytest", "-m", "cuda", *session.posargs)


def editable(packages: Iterable[str]) -> list[str]:
    """Arguments for pip that install these packages from where they lie."""
    return [word for name in packages for word in ("--editable", f"./packages/{name}")]


def package_files(packages: Iterable[str]) -> list[Path]:
    """The files that go into the wheels of these packages."""
    found = (path for name in packages for path in (ROOT / "packages" / name).rglob("*"))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def install(session: nox.Session, *requirements: str, files: Iterable[Path] = ()) -> None:
    """Install under the pins of `constraints.txt`, unless the environment already holds just that.

    `files` are what the installed packages consist of, where a change of theirs must be installed anew.
    """
    if not session.virtualenv.is_sandboxed:  # `nox --no-venv`: what is there is used as it is
        return
    # The pins go by `--constraint`, which leaves the builds of our own packages alone; as the variable
    # PIP_CONSTRAINT they would reach into those on some versions of pip.
    state = hashlib.sha256(" ".join(requirements).encode())
    for path in (CONSTRAINTS, *sorted(ROOT.glob("packages/*/pyproject.toml")), *files):
        state.update(path.read_bytes())
    stamp = Path(session.virtualenv.location) / "installed.txt"
    if stamp.is_file() and stamp.read_text() == state.hexdigest():
        return
    session.log("Filling the environment; the first time this downloads torch and takes minutes.")
    session.install("--constraint", str(CONSTRAINTS), *requirements, silent=not session.interactive)
    # By `run_install`, so that `nox --no-install` leaves no stamp for what it did not install.
    write = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    session.run_install("python", "-c", write, str(stamp), state.hexdigest(), log=False)
