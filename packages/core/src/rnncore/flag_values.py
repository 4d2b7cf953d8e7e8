"""From text (command line) or a YAML value (configuration file) to the value of a flag, held to the flag's rules.

Every function takes a ``label`` that names the flag or key in the error, and raises UserError for a bad value.
A flag's own default is always a good value: several original commands have defaults outside their range, such as -1
for "not set".
"""

import difflib
import math
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rnncore.errors import UserError
from rnncore.flag_spec import Flag, Rules

NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def from_text(flag: Flag, text: str, label: str) -> Any:
    """The value of a command line's text; a list's values are separated and quoted as a shell would."""
    text_is_a_value = "none" in flag.rules.choices if flag.rules.choices else flag.kind in (str, Path)
    if flag.optional and not text_is_a_value and text.lower() in ("none", "null"):
        return None
    parts = shlex.split(text) if flag.many else [text]
    return _checked(flag, [_one_from_text(flag.kind, part, label) for part in parts], label)


def from_yaml(flag: Flag, value: object, label: str) -> Any:
    """The value that a YAML or JSON value stands for: a list for a tuple, null for None, text for a path."""
    if value is None and flag.optional:
        return None
    if not flag.many:
        return _checked(flag, [_one_from_yaml(flag.kind, value, label)], label)
    if not isinstance(value, (list, tuple)):
        raise UserError(f"{label} must be a list such as [1, 2], not {shown(value)}")
    return _checked(flag, [_one_from_yaml(flag.kind, part, label) for part in value], label)


def to_yaml(value: object) -> object:
    """The inverse of :func:`from_yaml`."""
    if isinstance(value, tuple):
        return [to_yaml(each) for each in value]
    return str(value) if isinstance(value, Path) else value


def shown(value: object) -> str:
    """``value`` as an error shows it: text in quotes, on one line, not endless."""
    text = repr(str(value)) if isinstance(value, Path) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def closest(word: str, known: Iterable[str]) -> str:
    """``"; did you mean X?"`` for the member of ``known`` nearest to ``word``, or ``""`` where none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def range_words(rules: Rules) -> str:
    """The bounds in words, such as ``at least 0 and below 1``; empty without bounds."""
    bounds = {"at least": rules.minimum, "above": rules.above, "at most": rules.maximum, "below": rules.below}
    return " and ".join(f"{word} {bound:.12g}" for word, bound in bounds.items() if bound is not None)


def _one_from_text(kind: type, text: str, label: str) -> Any:
    try:
        if kind is bool:
            return TRUTH[text.lower()]
        if kind is Path and not text:
            raise ValueError
        return kind(text)
    except (ValueError, KeyError):
        raise UserError(f"{label} must be {NOUNS[kind]}, not {shown(text)}") from None


def _one_from_yaml(kind: type, value: object, label: str) -> Any:
    if isinstance(value, str) and kind in (bool, Path):
        return _one_from_text(kind, value, label)
    if kind is float and type(value) is int and abs(value) < 1e300:  # float() of a larger one overflows
        return float(value)
    if type(value) is not kind:
        hint = "; put it in quotes" if kind is str and isinstance(value, (int, float)) else ""
        raise UserError(f"{label} must be {NOUNS[kind]}, not {shown(value)}{hint}")
    return value


def _checked(flag: Flag, values: list[Any], label: str) -> Any:
    whole = tuple(values) if flag.many else values[0]
    if not flag.required and whole == flag.default:
        return whole
    if flag.rules.nargs == "+" and not values:
        raise UserError(f"{label} needs at least one value")
    for value in values:
        _check_one(flag.rules, value, label)
    return whole


def _check_one(rules: Rules, value: Any, label: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{label} must be a finite number, not {value}")
    if rules.choices and value not in rules.choices:
        hint = closest(value, rules.choices)
        raise UserError(f"{label} must be one of {', '.join(rules.choices)}, not {shown(value)}{hint}")
    if (
        (rules.minimum is not None and value < rules.minimum)
        or (rules.maximum is not None and value > rules.maximum)
        or (rules.above is not None and value <= rules.above)
        or (rules.below is not None and value >= rules.below)
    ):
        raise UserError(f"{label} must be {range_words(rules)}, not {shown(value)}")
    if rules.check and (problem := rules.check(value)):
        raise UserError(f"{label} {problem}, not {shown(value)}")
