"""``--resume``: which checkpoint a run goes on from, and which options it keeps."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from rnncore import checkpoint
from rnncore.errors import UserError
from rnncore.flag_spec import flags_of
from rnncore.flags import from_dict, given
from rnncore.run_directory import RunDirectory, latest
from rnncore.run_options import RunOptions

Options = TypeVar("Options", bound=RunOptions)

#: Fields of every command that belong to one call, not to the run.
_OF_THE_CALL = {"run_dir", "resume", "dry_run", "max_steps"}
#: Fields of every command that a resumed run may change: how it is computed, not what.
_OF_THE_MACHINE = {"device", "threads"}


def open_resumed(options: Options, command: str, changeable: set[str]) -> tuple[Options, RunDirectory, dict[str, Any]]:
    """The options, the directory and the checkpoint of the run that ``options.resume`` asks for.

    A path may be a run directory or a checkpoint in it; without one it is ``--run_dir``, else the newest run.

    Args:
        options: As given now. Fields that the command was not given (outside of one, that have their default) are
            taken from the run, but for those of the call itself (``--max_steps``).
        command: The ``kind`` of the checkpoint, and the folder of runs to look in.
        changeable: Names of further fields that may differ from the run's.

    Raises:
        UserError: There is no such run, its checkpoint is damaged or of another command, or an option is given that
            would make it another run.
    """
    path = Path(options.resume) if options.resume else options.run_dir or latest(command)
    run = RunDirectory.reopen(path)
    if options.run_dir is not None and options.run_dir.resolve() != run.path.resolve():
        raise UserError(f"--resume goes on in {run.path}; leave --run_dir {options.run_dir} out")
    file = path if path.suffix == ".pt" and not path.is_dir() else run.last
    saved = checkpoint.load(file, kind=command)
    if "optimizer" not in saved:
        raise UserError(f"{file} is a model without the state of its training; resume from {run.last}")
    return _merged(options, saved["config"], _OF_THE_MACHINE | changeable, run.path), run, saved


def _merged(options: Options, config: Mapping[str, Any], changeable: set[str], place: Path) -> Options:
    before = from_dict(type(options), config, source=str(place))
    kept: dict[str, Any] = {}
    named = given()
    for flag in flags_of(type(options)):
        now, then = getattr(options, flag.field), getattr(before, flag.field)
        if flag.field in _OF_THE_CALL:
            continue
        asked = now != flag.default if named is None else flag.field in named
        if now == then or not asked:
            kept[flag.field] = then
        elif flag.field not in changeable:
            raise UserError(f"{place} was begun with {flag.name} {then}, not {now}; leave it out, or begin a new run")
    return dataclasses.replace(options, **kept)
