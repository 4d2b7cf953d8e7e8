"""Command lines from options dataclasses: state a flag once, get its conversion, checks, help and configuration key.

    @dataclass(frozen=True, kw_only=True)
    class TrainOptions(RunOptions):
        hidden_size: int = flag(1150, "--nhid", help="units per hidden layer", minimum=1)
        when: tuple[int, ...] = flag((-1,), "--when", nargs="+", help="epochs at which the learning rate falls")

    @command(TrainOptions, name="some-train", examples=["some-train --nhid 200 --when 25 35"])
    def main(options: TrainOptions) -> None:
        ...

``main`` is then a click command and a console script. A value comes from the command line, else from the file that
``--config`` names, else from the field's default. How this is made, in the order of the data:

- ``flag_spec``: a dataclass's fields to a list of ``Flag``
- ``flag_parser``: the command line as typed to the form that click reads
- ``config_file``: YAML in and out
- ``flag_values``: a word or a YAML value to a checked Python value
- ``flag_help``: what ``--help`` prints
- here: the click command that joins them, and options to and from plain dictionaries

A bad value is one line ``Error: ...`` that names the flag or the file and key, and exit status 2.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast

import click
from click.core import ParameterSource

from rnncore.config_file import read_config
from rnncore.console_log import shown_log
from rnncore.errors import UserError
from rnncore.flag_help import write_examples, write_flags
from rnncore.flag_parser import rewrite
from rnncore.flag_spec import CONFIG, METADATA_KEY, Flag, Rules, flags_of, plain_key
from rnncore.flag_values import closest, from_text, from_yaml, shown, to_yaml
from rnncore.launcher import require_one_process
from rnncore.out_of_memory import told_in_one_line

T = TypeVar("T")
Options = TypeVar("Options")

REQUIRED: Any = dataclasses.MISSING
"""In place of a default: the flag has to be given, on the command line or in a configuration file."""


_GIVEN = "rnncore.flags.given"


def flag(
    default: T,
    *names: str,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Sequence[str] | None = None,
    check: Callable[[Any], str | None] | None = None,
    nargs: Literal["+", "*"] | None = None,
    optional_value: str | None = None,
    inverts: bool = False,
    yields: bool = False,
    section: str = "",
    metavar: str = "",
) -> T:
    """A field of an options dataclass that is also a flag. The field's type decides what the flag takes.

    ``bool`` is a switch (and ``--name=false`` turns it off); ``int``, ``float``, ``str``, ``Path`` and ``Literal`` take
    one value; ``tuple[int, ...]`` takes several (``nargs`` "+": one or more, "*": or none at all). With ``| None`` the
    word ``none`` on the command line, or null in a file, stands for None, where text is not itself a value.

    Args:
        default: the field's default, always a good value, or :data:`REQUIRED`.
        names: the spellings, the first of which help shows first. ``-``/``_`` and one or two dashes are equivalent.
        help: one phrase; default, choices and range are added to it.
        minimum, maximum, above, below: inclusive and exclusive bounds of each value. NaN and infinity are never good.
        choices: the words that are good.
        check: takes a value, returns what is wrong with it ("must be even") or None.
        nargs: for a tuple.
        optional_value: the text that a bare ``--name`` stands for; without it the flag needs a value.
        inverts: a bare switch turns the field off, as some original commands have it.
        yields: abbreviations that fit another flag too belong to the other one. For flags that the original command
            did not have, so that the abbreviations it took go on working.
        section: the heading in ``--help``.
        metavar: what help calls the value; otherwise it follows from the type.
    """
    rules = Rules(
        names=names,
        help=help,
        minimum=minimum,
        maximum=maximum,
        above=above,
        below=below,
        choices=tuple(choices) if choices else None,
        check=check,
        nargs=nargs,
        optional_value=optional_value,
        inverts=inverts,
        yields=yields,
        section=section,
        metavar=metavar,
    )
    return dataclasses.field(default=default, metadata={METADATA_KEY: rules})


def command(
    options_class: type[Options],
    *,
    name: str,
    epilog: str | None = None,
    examples: Sequence[str] = (),
    shipped: Path | None = None,
    parallel: bool = False,
) -> Callable[[Callable[[Options], object]], "OptionsCommand[Options]"]:
    """Decorate a function of one ``options_class`` object to become the click command ``name``.

    The function's docstring is the help; ``examples`` are command lines shown after the flags, ``epilog`` text after
    those. ``shipped`` is a folder of configurations that come with the command: ``--config quick`` is ``quick.yaml`` in
    it, unless a file ``quick`` is there. A command that is not ``parallel`` refuses to run as several processes.
    Raises TypeError if a flag is declared wrongly.
    """

    def decorate(function: Callable[[Options], object]) -> OptionsCommand[Options]:
        return OptionsCommand(
            options_class, function, name=name, epilog=epilog, examples=examples, shipped=shipped, parallel=parallel
        )

    return decorate


class OptionsCommand(click.Command, Generic[Options]):
    """The click command of an options dataclass; made by :func:`command`.

    To click every flag is an option with one text value; all else about values is decided here, once for the command
    line and configuration files alike. Public click API only, so that it holds from click 8.1 on.
    """

    def __init__(
        self,
        options_class: type[Options],
        function: Callable[[Options], object],
        *,
        name: str,
        epilog: str | None = None,
        examples: Sequence[str] = (),
        shipped: Path | None = None,
        parallel: bool = False,
    ) -> None:
        self.options_class = options_class
        self.flags = flags_of(options_class)
        self.examples = examples
        self.shipped = {} if shipped is None else {path.stem: path for path in sorted(shipped.glob("*.yaml"))}
        super().__init__(
            name,
            params=[click.Option([*each.rules.names, each.field], type=str) for each in (*self.flags, CONFIG)],
            callback=lambda options: function(options) if parallel else self._alone(function, options),
            help=function.__doc__,
            epilog=epilog or (f"--config also takes {' or '.join(self.shipped)}, by name." if self.shipped else None),
            context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
        )

    def resolve(self, args: Sequence[str]) -> Options:
        """The options that a command line stands for, without running the command. Raises UserError."""
        with self.make_context(self.name, list(args)) as context:
            return cast(Options, context.params["options"])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Part of click's interface: leave in ``ctx.params`` the one argument of the command's function."""
        if ctx.resilient_parsing:  # shell completion: the line is not whole yet
            return super().parse_args(ctx, args)
        try:
            super().parse_args(ctx, rewrite(args, self.flags))
        except click.UsageError as error:  # click would print a usage line above it
            raise UserError(error.format_message()) from None
        ctx.params = {"options": self._options(ctx)}
        return []

    def invoke(self, ctx: click.Context) -> Any:
        """Part of click's interface: runs the command."""
        with shown_log(), told_in_one_line():
            return super().invoke(ctx)

    def _alone(self, function: Callable[[Options], object], options: Options) -> object:
        require_one_process(str(self.name))
        return function(options)

    def _options(self, ctx: click.Context) -> Options:
        typed = {
            each.field: from_text(each, ctx.params[each.field], each.name)
            for each in (*self.flags, CONFIG)
            if ctx.get_parameter_source(each.field) == ParameterSource.COMMANDLINE
        }
        path = typed.pop(CONFIG.field, None)
        if path is not None and not path.exists():
            path = self.shipped.get(str(path), path)
        configured = _values_of(self.flags, read_config(path), source=str(path)) if path else {}
        values = {**configured, **typed}
        ctx.meta[_GIVEN] = frozenset(values)
        return _build(self.options_class, values)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Part of click's interface: the flags under their headings, then the examples."""
        write_flags(formatter, self.flags)
        write_examples(formatter, self.examples)


def given() -> frozenset[str] | None:
    """Which fields the command under way was given, on its command line or by ``--config``; None outside of one."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_GIVEN)


def to_dict(options: Any) -> dict[str, Any]:
    """Options as plain YAML and JSON values keyed by field name: tuples become lists, paths become text."""
    return {field.name: to_yaml(getattr(options, field.name)) for field in dataclasses.fields(options)}


def from_dict(options_class: type[Options], values: Mapping[Any, object], *, source: str = "options") -> Options:
    """The inverse of :func:`to_dict`; a missing key means the default.

    Raises UserError, with ``source`` and the key, for an unknown key and for a value that the flag would not take.
    """
    return _build(options_class, _values_of(flags_of(options_class), values, source=source))


def _values_of(flags: Sequence[Flag], values: Mapping[Any, object], *, source: str) -> dict[str, Any]:
    """Checked values by field name, from a mapping whose keys are field names or spellings of flags."""
    table = {key: each for each in flags for key in each.keys}
    result: dict[str, Any] = {}
    for key, value in values.items():
        each = table.get(plain_key(str(key)))
        if each is None:
            raise UserError(f"{source}: unknown key {shown(key)}{closest(plain_key(str(key)), table)}")
        if each.field in result:
            raise UserError(f"{source}: {key} is given twice, under two of its names")
        result[each.field] = from_yaml(each, value, f"{source}: {key}")
    return result


def _build(options_class: type[Options], values: Mapping[str, Any]) -> Options:
    for each in flags_of(options_class):
        if each.required and each.field not in values:
            raise UserError(f"{each.name} is required: {each.rules.help}")
    return options_class(**values)
