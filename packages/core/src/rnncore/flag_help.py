"""What ``--help`` prints about flags: under headings, each with its default, choices and range."""

from collections.abc import Sequence
from pathlib import Path

import click

from rnncore.flag_spec import CONFIG, HELP, Flag
from rnncore.flag_values import range_words, to_yaml

METAVARS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
OWN_SECTION = "Options"


def write_flags(formatter: click.HelpFormatter, flags: Sequence[Flag]) -> None:
    """Write the flags under their sections, in order of first appearance; ``--config`` and ``--help`` come last."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for flag in flags:
        sections.setdefault(flag.rules.section or OWN_SECTION, []).append((_usage(flag), _explanation(flag)))
    sections["General"] = [(_usage(flag), _explanation(flag)) for flag in (CONFIG, HELP)]
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl(rows)


def write_examples(formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    """Write command lines as they are: a wrapped command line could not be copied."""
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _usage(flag: Flag) -> str:
    """The left column: ``--when INT...``, ``--resume [PATH]``, ``--use_reverse``."""
    spellings = ", ".join(flag.rules.names)
    if flag.kind is bool:
        return spellings
    metavar = flag.rules.metavar or METAVARS[flag.kind]
    if flag.many:
        metavar += "..."
    if flag.rules.optional_value is not None or flag.rules.nargs == "*":
        metavar = f"[{metavar}]"
    return f"{spellings} {metavar}"


def _explanation(flag: Flag) -> str:
    """The right column: ``units per layer  [default 1150; at least 1]``."""
    choices = f"one of {', '.join(flag.rules.choices)}" if flag.rules.choices else ""
    notes = "; ".join(note for note in (_default_words(flag), choices, range_words(flag.rules)) if note)
    return f"{flag.rules.help}  [{notes}]" if notes else flag.rules.help


def _default_words(flag: Flag) -> str:
    if flag.required:
        return "required"
    if flag.kind is bool:
        off = flag.name if flag.rules.inverts else f"{flag.name}=false"
        return f"default on; {off} turns it off" if flag.default else ""
    if flag.default in (None, "", ()):
        return ""
    values = flag.default if flag.many else (flag.default,)
    return "default " + " ".join(str(to_yaml(value)) for value in values)
