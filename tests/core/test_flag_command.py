"""The click command of an options dataclass: help, running, interruption, completion, and wrong declarations."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner
from rnncore.errors import UserError
from rnncore.flags import REQUIRED, OptionsCommand, command, flag, from_dict


@dataclass(frozen=True, kw_only=True)
class Base:
    """Fields that a command inherits."""

    max_steps: int = flag(0, "--max_steps", help="stop early", minimum=0, section="Run", yields=True)
    folder: Path | None = flag(None, "--folder", help="where to write", section="Run")


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """One field of every sort that help shows differently."""

    hidden_size: int = flag(1150, "--h_size", "--nhid", help="units per layer", minimum=1, section="Model")
    unit: Literal["lstm", "gru", "revgru"] = flag("revgru", "--model", help="recurrent unit", section="Model")
    learning_rate: float = flag(20.0, "--lr", help="learning rate", above=0.0)
    max_forget: float = flag(0.875, "--max_forget", help="limit", above=0.0, maximum=1.0, section="Model")
    when: tuple[int, ...] = flag((-1,), "--when", nargs="+", help="epochs of decay", minimum=1)
    cutoffs: tuple[int, ...] = flag((10, 20), "--cutoffs", nargs="*", help="cluster bounds")
    use_reverse: bool = flag(False, "--use_reverse", help="train by reversing")
    save_model: bool = flag(True, "--save_model", help="keep the best model")
    tied: bool = flag(True, "--tied", inverts=True, help="share the embedding")
    resume: str | None = flag(None, "--resume", optional_value="", metavar="PATH", help="go on")


LONG_EXAMPLE = "some-train " + "--lr 1 " * 30 + "--tied"


@command(Options, name="some-train", examples=["some-train --when 25 35", LONG_EXAMPLE], epilog="Fin.")
def some_train(options: Options) -> Options:
    """Train something.

    With a second paragraph.
    """
    return options


def help_of(a_command: click.Command, *words: str) -> str:
    result = CliRunner().invoke(a_command, words or ("--help",), terminal_width=110)
    assert result.exit_code == 0
    return result.output


def test_help_shows_defaults_choices_ranges_sections_and_examples() -> None:
    lines = [" ".join(line.split()) for line in help_of(some_train).splitlines()]
    assert lines[0] == "Usage: some-train [OPTIONS]"
    assert "With a second paragraph." in lines
    flags = [
        "Model:",
        "--h_size, --nhid INT units per layer [default 1150; at least 1]",
        "--model TEXT recurrent unit [default revgru; one of lstm, gru, revgru]",
        "--max_forget FLOAT limit [default 0.875; above 0 and at most 1]",
        "",
        "Options:",
        "--lr FLOAT learning rate [default 20.0; above 0]",
        "--when INT... epochs of decay [default -1; at least 1]",
        "--cutoffs [INT...] cluster bounds [default 10 20]",
        "--use_reverse train by reversing",
        "--save_model keep the best model [default on; --save_model=false turns it off]",
        "--tied share the embedding [default on; --tied turns it off]",
        "--resume [PATH] go on",
        "",
        "Run:",
        "--max_steps INT stop early [default 0; at least 0]",
        "--folder PATH where to write",
        "",
        "General:",
        "--config PATH YAML file of flags and values; the command line wins over it",
        "--help, -h show this and exit",
        "",
        "Examples:",
        "some-train --when 25 35",
        LONG_EXAMPLE,
        "",
        "Fin.",
    ]
    assert lines[lines.index("Model:") :] == flags


def test_help_wins_over_mistakes_and_may_be_abbreviated() -> None:
    whole = help_of(some_train)
    for words in (["-h"], ["--lr", "x", "--help"], ["--nonsense", "-h"], ["--hel"], ["-help"]):
        assert help_of(some_train, *words) == whole
    with pytest.raises(UserError, match="unexpected extra argument"):
        some_train.resolve(["--", "--help"])


def test_the_command_runs_its_function_and_returns_its_value() -> None:
    assert some_train.main(["--lr", "1"], standalone_mode=False) == dataclasses.replace(Options(), learning_rate=1.0)
    assert CliRunner().invoke(some_train, ["--lr", "1"]).exit_code == 0
    with pytest.raises(UserError, match="--lr must be above 0"):
        some_train.main(["--lr", "0"], standalone_mode=False)


def test_the_command_line_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Options] = []
    monkeypatch.setattr("sys.argv", ["some-train", "--max_f", ".5", "--when", "1", "2"])
    with pytest.raises(SystemExit) as status:
        command(Options, name="some-train")(seen.append)()
    assert status.value.code == 0
    assert seen == [dataclasses.replace(Options(), max_forget=0.5, when=(1, 2))]


def test_interrupting_the_parser_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(path: Path) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr("rnncore.flags.read_config", interrupt)
    with pytest.raises(SystemExit) as status:
        some_train.main(["--config", "x"])
    assert status.value.code == 1
    assert capsys.readouterr().err.strip() == "Aborted!"


def test_shell_completion_survives_an_unfinished_line() -> None:
    line = {"_SOME_TRAIN_COMPLETE": "bash_complete", "COMP_WORDS": "some-train --when 25 35 --h_", "COMP_CWORD": "4"}
    result = CliRunner().invoke(some_train, [], prog_name="some-train", env=line)
    assert result.output.split() == ["plain,--h_size"]


@dataclass(frozen=True, kw_only=True)
class NeedsData:
    """A flag without a default, and a rule about two flags."""

    data: str = flag(REQUIRED, "-data", help="prefix of the preprocessed files")
    low: int = flag(0, "--low", help="")
    high: int = flag(9, "--high", help="")

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UserError(f"--low {self.low} is above --high {self.high}")


@command(NeedsData, name="needs-data")
def needs_data(options: NeedsData) -> None:
    """Needs data."""


def test_a_required_flag(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^-data is required: prefix of the preprocessed files$"):
        needs_data.resolve([])
    with pytest.raises(UserError, match=r"^-data is required"):
        from_dict(NeedsData, {})
    assert needs_data.resolve(["--data", "x"]).data == "x"
    (tmp_path / "conf.yaml").write_text("data: x")
    assert needs_data.resolve(["--config", str(tmp_path / "conf.yaml")]).data == "x"
    assert "-data TEXT  prefix of the preprocessed files  [required]" in help_of(needs_data)


def test_rules_about_several_fields_live_in_the_dataclass() -> None:
    result = CliRunner().invoke(needs_data, ["--data", "x", "--low", "10"])
    assert (result.exit_code, result.output) == (2, "Error: --low 10 is above --high 9\n")


def declared(annotation: Any, default: Any, *names: str, **rules: Any) -> OptionsCommand[Any]:
    """A command of one field, declared at run time."""
    field = flag(default, *names, help="", **rules)
    made = dataclasses.make_dataclass("Made", [("size", annotation, field)], frozen=True, kw_only=True)
    return command(made, name="made")(print)


@pytest.mark.parametrize(
    ("annotation", "default", "names", "rules", "told"),
    [
        (int, 1.5, ["--size"], {}, "default 1.5 is not of the field's type"),
        (float, 1, ["--size"], {}, "default 1 is not of the field's type"),
        (int, True, ["--size"], {}, "default True is not of the field's type"),
        (int, None, ["--size"], {}, "default None is not of the field's type"),
        (tuple[int, ...], (1, "2"), ["--size"], {"nargs": "+"}, "is not of the field's type"),
        (tuple[int, ...], (1,), ["--size"], {}, "nargs and a tuple type go together"),
        (int, 1, ["--size"], {"nargs": "+"}, "nargs and a tuple type go together"),
        (list[int], (), ["--size"], {}, "a flag cannot hold"),
        (int | str, 1, ["--size"], {}, "a flag cannot hold"),
        (int, 1, [], {}, "needs a spelling"),
        (int, 1, ["size"], {}, "spellings begin with a dash"),
        (int, 1, ["--config"], {}, "'config' already stands for --config"),
        (int, 1, ["-h"], {}, "'h' already stands for --help"),
    ],
)
def test_wrong_declarations_are_found_at_once(
    annotation: Any, default: Any, names: list[str], rules: dict[str, Any], told: str
) -> None:
    with pytest.raises(TypeError, match=told):
        declared(annotation, default, *names, **rules)
    assert declared(int, 1, "--size").resolve(["--size", "2"]).size == 2


def test_a_name_that_stands_for_two_fields_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Clash:
        dropout: float = flag(0.1, "--dropouti", help="")
        other: float = flag(0.1, "-dropout", help="")

    with pytest.raises(TypeError, match="'dropout' already stands for dropout"):
        command(Clash, name="clash")(print)


def test_a_field_without_flag_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Plain:
        size: int = 3

    with pytest.raises(TypeError, match=r"size: an options field is declared with flag\(\.\.\.\)"):
        command(Plain, name="plain")(print)


def test_shipped_configurations_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "quick.yaml").write_text("lr: 3\n")
    (shipped / "paper.yaml").write_text("lr: 5\n")
    monkeypatch.chdir(tmp_path)
    with_names = command(Options, name="some-train", shipped=shipped)(lambda options: None)
    assert with_names.resolve(["--config", "quick"]).learning_rate == 3
    assert with_names.resolve(["--config", "paper", "--lr", "7"]).learning_rate == 7
    assert "--config also takes paper or quick, by name." in help_of(with_names)
    Path("quick").write_text("lr: 4\n")
    assert with_names.resolve(["--config", "quick"]).learning_rate == 4  # a file of the user's own
    for name in ("quick.yaml", "quickly", "shipped/none.yaml"):
        with pytest.raises(UserError, match=f"cannot read the configuration {name}"):
            with_names.resolve(["--config", name])
    with pytest.raises(UserError, match="cannot read the configuration paper"):
        some_train.resolve(["--config", "paper"])


def test_what_the_core_logs_is_printed_once_while_a_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("rnncore.anything")

    @command(Base, name="inner")
    def inner(options: Base) -> None:
        logger.info("compiling")

    @command(Base, name="outer")
    def outer(options: Base) -> None:
        inner([], standalone_mode=False)

    for _ in range(2):
        outer([], standalone_mode=False)
        assert capsys.readouterr().err == "compiling\n"
    logger.info("compiling")
    assert capsys.readouterr().err == ""
