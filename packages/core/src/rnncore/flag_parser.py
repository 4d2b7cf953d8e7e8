"""From the command line as people type it to the one form that click reads: each flag's first spelling, then one value.

click knows neither a variable number of values, nor abbreviations, nor long flags with one dash. So the words are
rewritten before click sees them, by argparse's rules, which the original commands follow:

- ``--when 25 35 --lr 3``: values go on until the next flag; they reach click as one word, quoted as a shell would.
- ``--epoch 500``: the beginning of a flag's name is enough where no other flag begins so; a whole name always wins.
- ``-data x``, ``-epochs=80``, ``--log-interval``: one dash or two, ``-`` or ``_`` inside, ``=`` or a new word.
- ``-1``, ``-1e-3`` and a word with a space in it are values, never flags.
- ``--use_reverse``: a switch alone; ``--use_reverse=false`` takes back what a configuration file says.
"""

import itertools
import shlex
from collections import deque
from collections.abc import Sequence

from rnncore.errors import UserError
from rnncore.flag_spec import CONFIG, HELP, Flag, plain_key
from rnncore.flag_values import closest, shown


def rewrite(words: Sequence[str], flags: Sequence[Flag]) -> list[str]:
    """The same command line in click's form; ``flags`` are the command's own. What follows a lone ``--`` stays.

    Raises UserError for an unknown or ambiguous flag, a missing value, and a value that belongs to no flag.
    """
    if any(word in HELP.rules.names for word in itertools.takewhile(lambda word: word != "--", words)):
        return [HELP.name]  # also where the rest is wrong: who asks for help needs it
    waiting = deque(words)
    rewritten: list[str] = []
    while waiting:
        word = waiting.popleft()
        if word == "--":
            return [*rewritten, word, *waiting]
        if not looks_like_flag(word):
            after = f" after {rewritten[-2]}" if rewritten else ""
            raise UserError(f"unexpected argument {shown(word)}{after}; --help shows what each flag takes")
        spelling, equals, value = word.partition("=")
        flag = find_flag(spelling, (*flags, CONFIG, HELP))
        if flag is HELP:
            return [HELP.name]
        values = [value] if equals else _take_values(flag, waiting)
        rewritten += [flag.name, _one_word(flag, values)]
    return rewritten


def looks_like_flag(word: str) -> bool:
    """Whether a word names a flag: it begins with a dash, is no negative number, and its name has no space."""
    if not word.startswith("-") or word == "-" or " " in word.partition("=")[0]:
        return False
    try:
        float(word)
    except ValueError:
        return True
    return False


def find_flag(spelling: str, flags: Sequence[Flag]) -> Flag:
    """The flag that a spelling, or the beginning of one, stands for. Raises UserError where that is not one flag."""
    table = {_key(name): flag for flag in flags for name in flag.rules.names}
    if exact := table.get(_key(spelling)):
        return exact
    start = plain_key(spelling)
    found = {flag.field: flag for key, flag in table.items() if start and key.startswith(start)}
    matches = [flag for flag in found.values() if not flag.rules.yields] or list(found.values())
    if len(matches) > 1:
        raise UserError(f"{spelling} is ambiguous: it could be {', '.join(flag.name for flag in matches)}")
    if not matches:
        raise UserError(f"unknown flag {shown(spelling)}{_nearest(start, flags)}")
    return matches[0]


def _nearest(start: str, flags: Sequence[Flag]) -> str:
    """What somebody may have meant: the flag of a field's name, as in ``config.yaml``, else the nearest spelling."""
    by_field = [flag.name for flag in flags if flag.field == start]
    if by_field:
        return f"; did you mean {by_field[0]}?"
    spellings = [spelling for flag in flags for spelling in flag.rules.names]
    return (closest("--" + start, spellings) if start else "") or "; --help lists the flags"


def _key(spelling: str) -> str:
    """What two spellings of one flag share. A single letter keeps its dash: ``-n`` is not ``--n``."""
    is_letter = len(spelling) == 2 and not spelling.startswith("--")
    return spelling if is_letter else plain_key(spelling)


def _take_values(flag: Flag, waiting: deque[str]) -> list[str]:
    """Take from ``waiting`` the values that follow a flag: none for a switch, any number for a list, else one."""
    limit = 0 if flag.kind is bool else len(waiting) if flag.many else 1
    values: list[str] = []
    while waiting and len(values) < limit and not looks_like_flag(waiting[0]):
        values.append(waiting.popleft())
    return values


def _one_word(flag: Flag, values: list[str]) -> str:
    if flag.many:
        return shlex.join(values)
    if values:
        return values[0]
    if flag.kind is bool:
        return "false" if flag.rules.inverts else "true"
    if flag.rules.optional_value is None:
        raise UserError(f"{flag.name} needs a value")
    return flag.rules.optional_value
