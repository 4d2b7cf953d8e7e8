"""The command rnn-data, on a machine without a network."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rnncore.core_datasets import CORE
from rnncore.data_command import command, main
from rnncore.dataset_description import DataFile, Dataset, RawFile
from rnncore.dataset_preparation import SPLIT_FILES

TOY = Dataset(
    name="toy",
    aliases=("t",),
    description="three small files",
    size_mb=1,
    files=tuple(DataFile(name=name, tokens=3) for name in SPLIT_FILES),
    types=3,
    raw=tuple(RawFile(names=(f"toy.{name}", name)) for name in SPLIT_FILES),
)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RNN_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    directory = tmp_path / "copies"
    directory.mkdir()
    for name in SPLIT_FILES:
        (directory / f"toy.{name}").write_text("a b\n")
    return directory


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command((TOY, replace(TOY, name="other", aliases=()))), list(arguments))


def test_get_from_local_copies_then_path_and_verify(data_dir: Path, copies: Path) -> None:
    result = run("get", "t", "--from", str(copies))
    assert (result.exit_code, result.stdout) == (0, f"toy: {data_dir / 'toy'}\n")
    assert run("path", "toy").stdout == f"{data_dir / 'toy'}\n"
    result = run("verify", "toy")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"toy/{name}: ok: 3 tokens as published; unchanged since installed" for name in SPLIT_FILES
    ]


def test_verify_tells_the_damaged_file(data_dir: Path, copies: Path) -> None:
    run("get", "toy", "other", "--from", str(copies))
    (data_dir / "toy" / "valid.txt").write_text("b a\n")
    result = run("verify", "toy", "other")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line for line in lines if "NOT OK" in line] == [
        line for line in lines if line.startswith("toy/valid.txt: ")
    ]
    assert len(lines) == 6
    run("get", "toy", "--from", str(copies))
    assert run("verify", "toy").exit_code == 0


def test_list_shows_what_is_where(data_dir: Path, copies: Path) -> None:
    run("get", "toy", "--from", str(copies))
    (data_dir / "other").mkdir()
    (data_dir / "other" / "train.txt").write_text("a")
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ALIASES", "SIZE", "WHERE", "DESCRIPTION"]
    assert lines[1].split() == ["toy", "t", "1", "MB", str(data_dir / "toy"), "three", "small", "files"]
    assert "incomplete: no valid.txt" in lines[2]


def test_list_names_every_core_data_set(data_dir: Path) -> None:
    result = CliRunner().invoke(main, ["list"])
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [dataset.name for dataset in CORE]
    assert sum("not installed" in line for line in lines) == 5
    assert "embedded" in lines[-1]
    assert not data_dir.exists()  # to look changes nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("get", "nonsense"), "no data set is called 'nonsense'; the known ones are toy or t, other"),
        (("path", "toy"), "the data set toy is not installed"),
        (("verify", "toy"), "get it with 'rnn-data get toy'"),
        (("get", "toy", "--force"), "--force goes with --from"),
        (
            ("get", "toy"),
            "toy: nobody offers it for download; if you have a copy: 'rnn-data get toy --from DIR_OR_FILE'",
        ),
        (("get", "toy", "--from", "nowhere"), "nowhere: no such file or directory"),
    ],
)
def test_mistakes_are_one_line_and_status_2(data_dir: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_nothing_but_a_download_needs_pooch(data_dir: Path, copies: Path) -> None:
    """A machine without pooch can list, install from copies and locate; a download says what is missing."""
    program = (
        "import sys; sys.modules['pooch'] = None\n"
        "from rnncore.data_command import main\n"
        "from rnncore.datasets import locate\n"
        f"print(locate({str(copies)!r}, files=('toy.train.txt',)))\n"
        "main(['get', 'wikitext-103'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"RNN_DATA": str(data_dir)}
    )
    assert done.stdout == f"{copies}\n"
    assert done.returncode == 2
    assert "downloads need the package pooch" in done.stderr
    assert done.stderr.count("\n") == 1
