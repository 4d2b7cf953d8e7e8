"""What one flag is: its spellings, the type of its value, its default and the values it takes.

``rnncore.flags.flag`` writes the :class:`Rules` of a field of an options dataclass into the field's metadata;
:func:`flags_of` joins them with what the field itself says (name, type, default) to a :class:`Flag`.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

METADATA_KEY = "rnncore.flag"
KINDS = (bool, int, float, str, Path)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the author of a command states about one flag; :func:`rnncore.flags.flag` explains each."""

    names: tuple[str, ...]
    help: str
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    check: Callable[[Any], str | None] | None = None
    nargs: Literal["+", "*"] | None = None
    optional_value: str | None = None
    inverts: bool = False
    yields: bool = False
    section: str = ""
    metavar: str = ""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag: its ``rules``, and what the field that holds its value says.

    ``kind`` is the type of a single value (bool, int, float, str or Path), ``many`` says that the field is a tuple of
    such values, ``optional`` that None is a value too. ``default`` is ``dataclasses.MISSING`` for a required flag.
    """

    field: str
    kind: type
    optional: bool
    many: bool
    default: Any
    rules: Rules

    @property
    def name(self) -> str:
        """The spelling that help and errors use."""
        return self.rules.names[0]

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is dataclasses.MISSING

    @property
    def keys(self) -> set[str]:
        """What the flag is called in a configuration file: the field and every spelling, see :func:`plain_key`."""
        return {plain_key(spelling) for spelling in (self.field, *self.rules.names)}


CONFIG = Flag(
    field="config",
    kind=Path,
    optional=True,
    many=False,
    default=None,
    rules=Rules(names=("--config",), help="YAML file of flags and values; the command line wins over it", yields=True),
)
HELP = Flag(
    field="help",
    kind=bool,
    optional=False,
    many=False,
    default=False,
    rules=Rules(names=("--help", "-h"), help="show this and exit"),
)


def plain_key(spelling: str) -> str:
    """A spelling without its dashes and with ``_`` for ``-``: ``--log-interval`` gives ``log_interval``."""
    return spelling.lstrip("-").replace("-", "_")


def flags_of(options_class: type) -> tuple[Flag, ...]:
    """The flags of an options dataclass: those that the class itself declares first, then those it inherits.

    Raises TypeError for a wrong declaration (no ``flag(...)``, a type that no flag can hold, a default of another
    type, a spelling that stands for two fields): the mistake of a command's author, found when its module is imported.
    """
    hints = typing.get_type_hints(options_class)
    declared = [inspect.get_annotations(owner) for owner in options_class.__mro__]
    fields = sorted(
        dataclasses.fields(options_class),
        key=lambda field: next(depth for depth, names in enumerate(declared) if field.name in names),
    )
    flags = tuple(_flag_of(field, hints[field.name]) for field in fields)
    _refuse_shared_spellings(flags)
    return flags


def _flag_of(field: "dataclasses.Field[Any]", hint: Any) -> Flag:
    """Read a field's type: ``kind``, ``tuple[kind, ...]``, ``Literal[...]``, and each of them ``| None``."""
    rules: Rules | None = field.metadata.get(METADATA_KEY)
    if rules is None:
        raise TypeError(f"{field.name}: an options field is declared with flag(...)")
    alternatives = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    optional = type(None) in alternatives
    kind, *others = [alternative for alternative in alternatives if alternative is not type(None)]
    many = typing.get_origin(kind) is tuple and typing.get_args(kind)[1:] == (...,)
    if many:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        rules = dataclasses.replace(rules, choices=rules.choices or typing.get_args(kind))
        kind = str
    if others or kind not in KINDS or (many and kind is bool):
        raise TypeError(f"{field.name}: a flag cannot hold {hint}")
    flag = Flag(field=field.name, kind=kind, optional=optional, many=many, default=field.default, rules=rules)
    _refuse_bad_declaration(flag)
    return flag


def _refuse_bad_declaration(flag: Flag) -> None:
    rules, default = flag.rules, flag.default
    if not rules.names or not all(spelling.startswith("-") for spelling in rules.names):
        raise TypeError(f"{flag.field}: a flag needs a spelling, and spellings begin with a dash")
    if flag.many != bool(rules.nargs):
        raise TypeError(f"{flag.field}: nargs and a tuple type go together")
    if flag.required or (flag.optional and default is None):
        return
    parts = default if isinstance(default, tuple) else (default,)
    right_type = all(isinstance(part, flag.kind) and (flag.kind is bool or part is not True) for part in parts)
    if flag.many != isinstance(default, tuple) or not right_type:
        raise TypeError(f"{flag.field}: the default {default!r} is not of the field's type")


def _refuse_shared_spellings(flags: Sequence[Flag]) -> None:
    taken = {key: each.name for each in (CONFIG, HELP) for key in each.keys}
    for flag in flags:
        for key in flag.keys:
            if key in taken:
                raise TypeError(f"{flag.field}: {key!r} already stands for {taken[key]}")
        taken |= dict.fromkeys(flag.keys, flag.field)
