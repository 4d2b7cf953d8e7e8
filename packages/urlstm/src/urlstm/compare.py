"""``urlstm-compare``: one task, several gates, several seeds; one figure and one table."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rnncore.atomic_file import cannot_write, replace_file
from rnncore.config_file import config_text, read_config
from rnncore.errors import UserError
from rnncore.flag_spec import flags_of
from rnncore.flags import OptionsCommand, flag, to_dict
from rnncore.metrics_file import read_metrics

from urlstm import train_adding, train_copy, train_images, train_language
from urlstm.comparison import Panel, draw, table
from urlstm.options import (
    CONFIGURATIONS,
    GATES,
    AddingOptions,
    CopyOptions,
    ImagesOptions,
    LanguageOptions,
    TaskOptions,
)

RUNS = Path("runs") / "urlstm-compare"
#: Fields that a later call may change: where runs lie and how they are computed, and what the grid itself sets.
_FREE = {"run_dir", "resume", "dry_run", "device", "threads", "model_type", "gates", "seeds", "data"}


def gates_problem(text: str) -> str | None:
    """What is wrong with the text of ``--gates``, or None."""
    names = text.split(",")
    unknown = [name for name in names if name not in GATES]
    if unknown:
        which = "" if unknown == [text] else f" ({unknown[0]!r} is none of them)"
        return f"must be gates separated by commas, of {', '.join(GATES)}{which}"
    return None if len(set(names)) == len(names) else "must name each gate once"


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """What a comparison takes beside the flags of its task."""

    gates: str = flag(
        "lstm,u-lstm,r-lstm,ur-lstm",
        "--gates",
        check=gates_problem,
        help=f"separated by commas, of {','.join(GATES)}",
        section="Comparison",
    )
    seeds: int = flag(3, "--seeds", help="runs of each gate: --seed, --seed + 1, ...", minimum=1, section="Comparison")


@dataclass(frozen=True, kw_only=True)
class CompareAdding(GridOptions, AddingOptions):
    """What ``urlstm-compare adding`` takes."""


@dataclass(frozen=True, kw_only=True)
class CompareCopy(GridOptions, CopyOptions):
    """What ``urlstm-compare copy`` takes."""


@dataclass(frozen=True, kw_only=True)
class CompareImages(GridOptions, ImagesOptions):
    """What ``urlstm-compare images`` takes."""


@dataclass(frozen=True, kw_only=True)
class CompareLanguage(GridOptions, LanguageOptions):
    """What ``urlstm-compare language`` takes."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task: its name, its options without and with those of the grid, what runs it, and what is drawn."""

    name: str
    options: type[TaskOptions]
    grid: type[Any]
    run: Callable[[Any], None]
    panels: tuple[Panel, ...]


TASKS = (
    Task(
        name="adding",
        options=AddingOptions,
        grid=CompareAdding,
        run=train_adding.run,
        panels=(Panel("step", "loss", "mean squared error", logarithmic=True),),
    ),
    Task(
        name="copy",
        options=CopyOptions,
        grid=CompareCopy,
        run=train_copy.run,
        panels=(
            Panel("step", "loss", "cross entropy (nats per step)", logarithmic=True),
            Panel("valid", "accuracy", "share of symbols that are right"),
        ),
    ),
    Task(
        name="images",
        options=ImagesOptions,
        grid=CompareImages,
        run=train_images.run,
        panels=(
            Panel("step", "loss", "training loss (nats per picture)", logarithmic=True),
            Panel("valid", "accuracy", "validation accuracy"),
        ),
    ),
    Task(
        name="language",
        options=LanguageOptions,
        grid=CompareLanguage,
        run=train_language.run,
        panels=(
            Panel("step", "loss", "training loss (nats per token)"),
            Panel("valid", "loss", "validation loss (nats per token)"),
        ),
    ),
)


@click.group(context_settings={"help_option_names": ["--help", "-h"]})
def main() -> None:
    """Compare gates on a task: run each with several seeds, then draw one figure and print one table.

    Every flag of the task's own command is taken, too. Runs that are finished are not run again, those that were cut
    off go on: after Ctrl-C or a kill, give the same command.
    """


def _command(task: Task) -> OptionsCommand[Any]:
    def run(options: Any) -> None:
        compare(task, options)

    run.__doc__ = f"Compare gates on the task of urlstm-{task.name}: each with several seeds, one figure, one table."
    return OptionsCommand(
        task.grid,
        run,
        name=task.name,
        examples=[f"urlstm-compare {task.name} --config quick --gates lstm,ur-lstm --seeds 3"],
        shipped=CONFIGURATIONS / task.name,
    )


for _task in TASKS:
    main.add_command(_command(_task))


def compare(task: Task, options: Any) -> None:
    """Runs what is not finished yet, and writes ``comparison.png`` and ``comparison.md`` into the directory.

    A run that stops by itself, as one that diverges, is told of and left out; the others go on.

    Raises:
        UserError: The directory holds a comparison with other settings; or no run came to its end.
    """
    if options.resume is not None:
        raise UserError("a comparison goes on by itself; leave --resume out and give the same --run_dir")
    if options.model_type != task.options.__dataclass_fields__["model_type"].default:
        raise UserError("a comparison takes its gates from --gates; leave --model_type out")
    folder = options.run_dir or RUNS / task.name
    grid = _grid(task, options, folder)
    if options.dry_run:
        for path in grid:
            click.echo(f"{path}: {'finished' if is_finished(path) else 'to be run'}")
        return
    _claim(task, options, folder)
    stopped = _run_all(task, {path: run for path, run in grid.items() if not is_finished(path)})
    finished: dict[str, list[Path]] = {}
    for path, run in grid.items():
        if path.name not in stopped:
            finished.setdefault(run.model_type, []).append(path)
    if not finished:
        raise UserError(f"no run in {folder} came to its end; the first one: {next(iter(stopped.values()))}")
    finished = {gate: finished[gate] for gate in options.gates.split(",") if gate in finished}
    draw(finished, task.panels, folder / "comparison.png")
    text = table(finished, stopped)
    replace_file(folder / "comparison.md", lambda file: file.write(text.encode()))
    click.echo(f"{text}\nfigure: {folder / 'comparison.png'}")


def is_finished(path: Path) -> bool:
    """Whether a run directory holds a run that has come to its end."""
    metrics = path / "metrics.jsonl"
    return metrics.is_file() and any(row["event"] == "end" for row in read_metrics(metrics))


def _run_all(task: Task, runs: dict[Path, TaskOptions]) -> dict[str, str]:
    """Runs one after the other, from their checkpoints where there are any; names of those that stopped, and why."""
    stopped = {}
    for number, (path, run) in enumerate(runs.items(), 1):
        click.echo(f"run {number} of {len(runs)}: {path.name}")
        begun = any((path / name).is_file() for name in ("last.pt", "last.previous.pt"))
        try:
            task.run(dataclasses.replace(run, resume=str(path) if begun else None))
        except UserError as error:
            if not (path / "metrics.jsonl").is_file():
                raise  # not a matter of this run alone: no data, no such device
            click.echo(f"{path}: {error.message}", err=True)
            stopped[path.name] = error.message
        except SystemExit:
            click.echo("to go on with the comparison: the same command")
            raise
    return stopped


def _grid(task: Task, options: Any, folder: Path) -> dict[Path, TaskOptions]:
    """The options of each run by its directory; all gates with one seed come before the next seed."""
    shared = {field.name: getattr(options, field.name) for field in dataclasses.fields(task.options)}
    grid = {}
    for seed in range(options.seed, options.seed + options.seeds):
        for gate in options.gates.split(","):
            path = folder / f"{gate}_seed{seed}"
            grid[path] = task.options(**{**shared, "model_type": gate, "seed": seed, "run_dir": path})
    return grid


def _claim(task: Task, options: Any, folder: Path) -> None:
    """Writes the settings into the directory, or compares them with those that are there.

    Raises:
        UserError: They differ, or the directory cannot be written.
    """
    settings = {"task": task.name, **{key: value for key, value in to_dict(options).items() if key not in _FREE}}
    file = folder / "comparison.yaml"
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(file, lambda out: out.write(config_text(settings).encode()))
        except OSError as error:
            raise cannot_write(file, error) from error
        return
    before = read_config(file)
    if before.get("task") != task.name:
        raise UserError(f"{folder} holds a comparison on {before.get('task')}; choose another --run_dir")
    for each in flags_of(task.grid):
        then, now = before.get(each.field), settings.get(each.field)
        if each.field in settings and then != now:
            raise UserError(f"{folder} was begun with {each.name} {then}, not {now}; choose another --run_dir")
