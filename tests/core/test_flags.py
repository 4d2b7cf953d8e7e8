"""Command lines: spellings, abbreviations, values, and the one line that a mistake gives."""

import argparse
import dataclasses
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from rnncore.errors import UserError
from rnncore.flag_parser import find_flag
from rnncore.flag_spec import CONFIG, HELP, plain_key
from rnncore.flags import command, flag, to_dict


@dataclass(frozen=True, kw_only=True)
class Base:
    """Fields that a command inherits."""

    max_steps: int = flag(0, "--max_steps", help="stop early", minimum=0, section="Run", yields=True)
    folder: Path | None = flag(None, "--folder", help="where to write", section="Run")


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    """One field of every sort that a flag can have."""

    hidden_size: int = flag(1150, "--h_size", "--nhid", help="units per layer", minimum=1, section="Model")
    unit: Literal["lstm", "gru", "revgru"] = flag("revgru", "--model", help="recurrent unit", section="Model")
    max_forget: float = flag(0.875, "--max_forget", help="limit", above=0.0, maximum=1.0, section="Model")
    learning_rate: float = flag(20.0, "--lr", help="learning rate", above=0.0)
    decay: float = flag(4.0, "--lr_decay", help="divisor")
    dropout: float = flag(0.4, "--dropout", help="of outputs", minimum=0.0, below=1.0)
    dropout_inputs: float = flag(0.4, "--dropouti", help="of inputs", minimum=0.0, below=1.0)
    epochs: int = flag(40, "--epochs", help="passes over the data", minimum=1)
    interval: int = flag(200, "--log-interval", help="steps between lines", minimum=1)
    when: tuple[int, ...] = flag((-1,), "--when", nargs="+", help="epochs of decay", minimum=1)
    cutoffs: tuple[int, ...] = flag((10, 20), "--cutoffs", nargs="*", help="cluster bounds")
    betas: tuple[float, ...] | None = flag(None, "--betas", nargs="+", help="two numbers", minimum=0.0, below=1.0)
    use_reverse: bool = flag(False, "--use_reverse", help="train by reversing")
    save_model: bool = flag(True, "--save_model", help="keep the best model")
    tied: bool = flag(True, "--tied", inverts=True, help="share the embedding")
    forget_bias: float | None = flag(1.0, "--forget_bias", help="none: torch's own")
    growth: str = flag("random", "-growth", help="how connections grow")
    resume: str | None = flag(None, "--resume", optional_value="", metavar="PATH", help="go on")
    words: tuple[str, ...] = flag((), "-words", nargs="*", help="any text")
    even: int = flag(2, "--even", help="even number", check=lambda n: "must be even" if n % 2 else None)
    step: float = flag(-0.2, "-s", help="negative means unset", minimum=0.0)


@command(
    Options, name="some-train", examples=["some-train --when 25 35", "some-train " + "--lr 1 " * 30], epilog="Fin."
)
def some_train(options: Options) -> Options:
    """Train something.

    With a second paragraph.
    """
    return options


def resolve(line: str) -> Options:
    return some_train.resolve(shlex.split(line))


def message_of(line: str) -> str:
    """What a shell's user sees for a line that is wrong; checks that it is one line and status 2."""
    result = CliRunner().invoke(some_train, shlex.split(line))
    assert result.exit_code == 2, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    return result.output.removeprefix("Error: ").rstrip("\n")


def test_defaults_are_the_dataclass_defaults() -> None:
    assert resolve("") == Options()
    assert to_dict(Options())["learning_rate"] == 20.0


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("--lr 1e-3", {"learning_rate": 1e-3}),
        ("--lr=.5", {"learning_rate": 0.5}),
        ("-lr 3", {"learning_rate": 3.0}),
        ("-lr=3", {"learning_rate": 3.0}),
        ("--lr 1 --lr 2", {"learning_rate": 2.0}),
        ("--h_size 10", {"hidden_size": 10}),
        ("--nhid 10", {"hidden_size": 10}),
        ("--h-size=10", {"hidden_size": 10}),
        ("--log_interval 7", {"interval": 7}),
        ("--log-interval 7", {"interval": 7}),
        ("-log_interval 7", {"interval": 7}),
        ("--epoch 500", {"epochs": 500}),
        ("-ep=80", {"epochs": 80}),
        ("--log-i 7", {"interval": 7}),
        ("--dropout 0", {"dropout": 0.0}),
        ("--max 0.5", {"max_forget": 0.5}),
        ("--max_s 5", {"max_steps": 5}),
        ("-gro x", {"growth": "x"}),
        ("--growth x", {"growth": "x"}),
        ("--growth -", {"growth": "-"}),
        ("--growth=-x", {"growth": "-x"}),
        ("--growth ''", {"growth": ""}),
        ("--growth=", {"growth": ""}),
        ("--growth a=b", {"growth": "a=b"}),
        ("--growth=a=b", {"growth": "a=b"}),
        ("--growth '-- the end'", {"growth": "-- the end"}),
        ("--growth none", {"growth": "none"}),
        ("--when 25 35 --lr 3", {"when": (25, 35), "learning_rate": 3.0}),
        ("--lr 3 --when 25 35", {"when": (25, 35), "learning_rate": 3.0}),
        ("--when=25", {"when": (25,)}),
        ("--when -1", {"when": (-1,)}),
        ("--when 25 --when 35 45", {"when": (35, 45)}),
        ("--cutoff 1000 5000 20000", {"cutoffs": (1000, 5000, 20000)}),
        ("--cutoffs -1 -20 3", {"cutoffs": (-1, -20, 3)}),
        ("--cutoffs", {"cutoffs": ()}),
        ("--cutoffs --tied", {"cutoffs": (), "tied": False}),
        ("--betas .9 1e-3", {"betas": (0.9, 0.001)}),
        ("--lr_decay -1e-3", {"decay": -0.001}),
        ("--lr_decay -.5", {"decay": -0.5}),
        ("--words 'a b' \"it's\" -3", {"words": ("a b", "it's", "-3")}),
        ("--use_reverse", {"use_reverse": True}),
        ("-use-rev", {"use_reverse": True}),
        ("--use_reverse=false", {}),
        ("--use_reverse=Yes", {"use_reverse": True}),
        ("--save_model", {}),
        ("--save_model=off", {"save_model": False}),
        ("--tied", {"tied": False}),
        ("--tied=true", {}),
        ("--tied=false", {"tied": False}),
        ("--forget_bias none", {"forget_bias": None}),
        ("--forget_bias null", {"forget_bias": None}),
        ("--forget_bias -2", {"forget_bias": -2.0}),
        ("--resume", {"resume": ""}),
        ("--resume --lr 3", {"resume": "", "learning_rate": 3.0}),
        ("--resume here/last.pt", {"resume": "here/last.pt"}),
        ("--resume=here/last.pt", {"resume": "here/last.pt"}),
        ("--resume none", {"resume": "none"}),
        ("--folder a/b", {"folder": Path("a/b")}),
        ("--even 4", {"even": 4}),
        ("-s 3", {"step": 3.0}),
        ("-s -0.2", {}),
        ("--s=false", {"save_model": False}),
    ],
)
def test_command_lines(line: str, changed: dict[str, Any]) -> None:
    options = resolve(line)
    assert options == dataclasses.replace(Options(), **changed)
    assert all(type(getattr(options, name)) in (type(value), type(Path())) for name, value in changed.items())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lr 0", "--lr must be above 0, not 0.0"),
        ("--lr -1", "--lr must be above 0, not -1.0"),
        ("--lr nan", "--lr must be a finite number, not nan"),
        ("--lr -inf", "--lr must be a finite number, not -inf"),
        ("--lr 1e999", "--lr must be a finite number, not inf"),
        ("--lr_decay -nan", "--lr_decay must be a finite number, not nan"),
        ("--lr x", "--lr must be a number, not 'x'"),
        ("--lr ''", "--lr must be a number, not ''"),
        ("--lr", "--lr needs a value"),
        ("--lr --when 3", "--lr needs a value"),
        ("--lr --", "--lr needs a value"),
        ("--dropout 1", "--dropout must be at least 0 and below 1, not 1.0"),
        ("--max_forget 1.5", "--max_forget must be above 0 and at most 1, not 1.5"),
        ("--nhid 0", "--h_size must be at least 1, not 0"),
        ("--nhid 1.5", "--h_size must be a whole number, not '1.5'"),
        ("--nhid 1e3", "--h_size must be a whole number, not '1e3'"),
        ("--epochs " + "9" * 5000, "--epochs must be a whole number, not '" + "9" * 56 + "..."),
        ("--even 3", "--even must be even, not 3"),
        ("--model GRU2", "--model must be one of lstm, gru, revgru, not 'GRU2'"),
        ("--model regru", "--model must be one of lstm, gru, revgru, not 'regru'; did you mean revgru?"),
        ("--when", "--when needs at least one value"),
        ("--when --lr 3", "--when needs at least one value"),
        ("--when 25 x", "--when must be a whole number, not 'x'"),
        ("--when 25,35", "--when must be a whole number, not '25,35'"),
        ("--when 25 0", "--when must be at least 1, not 0"),
        ("--betas 0.9 2", "--betas must be at least 0 and below 1, not 2.0"),
        ("--use_reverse=maybe", "--use_reverse must be true or false, not 'maybe'"),
        ("--folder ''", "--folder must be a path, not ''"),
        ("--epohcs 3", "unknown flag '--epohcs'; did you mean --epochs?"),
        ("--learning_rate 3", "unknown flag '--learning_rate'; did you mean --lr?"),
        ("-qqqq", "unknown flag '-qqqq'; --help lists the flags"),
        ("--q\nq", "unknown flag '--q'; --help lists the flags"),
        ("'--q\nq'", r"unknown flag '--q\nq'; --help lists the flags"),
        ("--=3", "unknown flag '--'; --help lists the flags"),
        ("--dr 3", "--dr is ambiguous: it could be --dropout, --dropouti"),
        ("--h 3", "--h is ambiguous: it could be --h_size, --help"),
        ("extra", "unexpected argument 'extra'; --help shows what each flag takes"),
        ("--lr 3 4", "unexpected argument '4' after --lr; --help shows what each flag takes"),
        ("--use_reverse true", "unexpected argument 'true' after --use_reverse; --help shows what each flag takes"),
        ("--when=25 35", "unexpected argument '35' after --when; --help shows what each flag takes"),
        ("--lr 3 -- --tied", "Got unexpected extra argument (--tied)"),
    ],
)
def test_errors_are_one_clear_line(line: str, message: str) -> None:
    assert message_of(line) == message


def test_abbreviations_follow_argparse() -> None:
    """The beginning of a name is ambiguous where argparse says so, and else means the same flag."""
    flags = (*(each for each in some_train.flags if not each.rules.yields), HELP)
    names = {"--" + plain_key(name): each.field for each in flags for name in each.rules.names if len(name) > 2}
    oracle = argparse.ArgumentParser(add_help=False)
    for name, field in names.items():
        oracle.add_argument(name, dest=field, action="store_true")
    outcomes: Counter[bool] = Counter()
    for start in sorted({name[:length] for name in names for length in range(3, len(name) + 1)}):
        try:
            (expected,) = (field for field, given in vars(oracle.parse_args([start])).items() if given)
        except SystemExit:
            with pytest.raises(UserError, match="ambiguous"):
                find_flag(start, (*some_train.flags, CONFIG, HELP))
        else:
            for typed in (start, start[1:], "--" + start[2:].replace("_", "-")):
                if len(typed) > 2:
                    assert find_flag(typed, (*some_train.flags, CONFIG, HELP)).field == expected
        outcomes[start in names] += 1
    assert outcomes[False] > 60
