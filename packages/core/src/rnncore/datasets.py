"""Where a data set lies on this machine, from its name or from what a user gave as a directory.

A package that needs more data sets describes them with ``rnncore.dataset_description.Dataset`` and passes
``(*CORE, ITS_OWN)`` as ``known`` to the functions here and to ``rnncore.data_command.command``.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from rnncore.core_datasets import CORE
from rnncore.dataset_description import Dataset
from rnncore.dataset_preparation import SPLIT_FILES
from rnncore.errors import UserError
from rnncore.loss_units import Unit

_log = logging.getLogger(__name__)


def data_directory() -> Path:
    """Where data sets are installed: the environment variable ``RNN_DATA``, or else the user's data directory."""
    chosen = os.environ.get("RNN_DATA")
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("rnncore")


def find(name: str, known: Sequence[Dataset] = CORE) -> Dataset:
    """The data set of this name or alias.

    Raises:
        UserError: there is none; the line lists the known ones.
    """
    dataset = _lookup(name, known)
    if dataset is None:
        raise UserError(f"no data set is called {name!r}; the known ones are {_listing(known)}")
    return dataset


def missing_files(dataset: Dataset, directory: Path) -> list[str]:
    """The names of the files of a data set that a directory lacks."""
    return [file.name for file in dataset.files if not (directory / file.name).is_file()]


def installed(dataset: Dataset, *, data_dir: Path | None = None) -> Path:
    """The directory of an installed data set (an embedded one is built if need be).

    Raises:
        UserError: it is not there, or incomplete; the line says how to get it.
    """
    if dataset.embedded is not None:
        return dataset.embedded()
    directory = (data_dir or data_directory()) / dataset.name
    missing = missing_files(dataset, directory)
    if missing:
        state, get = f"has no {missing[0]}" if directory.is_dir() else "does not exist", f"rnn-data get {dataset.name}"
        origin = dataset.made_from
        at_hand = origin is not None and not missing_files(origin, directory.with_name(origin.name))
        offline = "" if at_hand else f", or without a network with '{get} --from DIR_OR_FILE'"
        raise UserError(
            f"the data set {dataset.name} is not installed ({directory} {state}): get it with '{get}'{offline}"
        )
    return directory


def locate(
    name_or_directory: str,
    *,
    data_dir: Path | None = None,
    known: Sequence[Dataset] = CORE,
    files: Sequence[str] = SPLIT_FILES,
) -> Path:
    """The directory that holds a corpus, from what a user gave as ``--data``.

    A directory that holds the files is taken as it is. A known name, or a path that is not there (or holds none of the
    files) but ends in a known name, like ``data/penn/``, stands for the installed data set.

    Args:
        name_or_directory: as the user wrote it.
        data_dir: where data sets are installed; default :func:`data_directory`.
        known: the data sets that have a name.
        files: what a directory must hold.

    Raises:
        UserError: no such data set, or not installed, or a directory that lacks one of the files.
    """
    path = Path(name_or_directory).expanduser()
    missing = [file for file in files if not (path / file).is_file()]
    if path.is_dir() and not missing:
        return path
    dataset = _lookup(path.name, known)
    if path.is_dir() and (dataset is None or len(missing) < len(files)):
        raise UserError(f"{path} has no {missing[0]}: a directory of data must hold {', '.join(files)}")
    if path.is_file():
        raise UserError(f"{path} is a file: give the directory that holds {', '.join(files)}")
    if dataset is None:
        raise UserError(f"{name_or_directory!r} is no directory and no data set; known ones are {_listing(known)}")
    directory = installed(dataset, data_dir=data_dir)
    if name_or_directory != path.name or path.is_dir():
        _log.warning("no data in %s: using the data set %s in %s", name_or_directory, dataset.name, directory)
    return directory


def loss_unit(level: str, data: str, known: Sequence[Dataset] = CORE) -> Unit:
    """How a loss is told beside nats: in bits per character where tokens are characters, else as perplexity.

    Args:
        level: ``--level``, at which the text is read.
        data: ``--data``; a data set of characters (``enwik8``, ``pennchar``) is known by the last part of its path.
        known: the data sets that have a name.
    """
    dataset = _lookup(Path(data).name, known)
    return "bpc" if level == "character" or (dataset is not None and dataset.characters) else "ppl"


def _lookup(name: str, known: Sequence[Dataset]) -> Dataset | None:
    return next((dataset for dataset in known if name.lower() in (dataset.name, *dataset.aliases)), None)


def _listing(known: Sequence[Dataset]) -> str:
    return ", ".join(" or ".join((dataset.name, *dataset.aliases)) for dataset in known)
