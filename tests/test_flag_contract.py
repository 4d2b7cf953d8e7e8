"""The command lines are frozen: each implemented command takes what the original command took.

``contracts/flags.yaml`` holds the flags of the original command lines, ``contracts/commands.yaml`` the commands of the
original READMEs. Ours may have more flags. A package adds its commands to ``IMPLEMENTED``.
"""

import argparse
import importlib
import importlib.util
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from rnncore.flag_parser import find_flag
from rnncore.flag_spec import CONFIG, HELP, Flag, plain_key
from rnncore.flags import OptionsCommand, to_dict

CONTRACTS = Path(__file__).parent / "contracts"
FLAGS: dict[str, list[dict[str, Any]]] = yaml.safe_load((CONTRACTS / "flags.yaml").read_text())
COMMANDS: dict[str, list[str]] = yaml.safe_load((CONTRACTS / "commands.yaml").read_text())

# Console script: (module, name of the click command in it).
IMPLEMENTED = {
    "revrnn-train": ("revrnn.train", "main"),
    "revrnn-nmt-preprocess": ("revrnn.translation.preprocess", "main"),
    "revrnn-nmt-train": ("revrnn.translation.train", "main"),
    "revrnn-nmt-translate": ("revrnn.translation.translate", "main"),
    "awdlm-train": ("awdlm.train", "main"),
    "awdlm-finetune": ("awdlm.finetune", "main"),
    "awdlm-pointer": ("awdlm.pointer", "main"),
    "awdlm-generate": ("awdlm.generate", "main"),
    "rmc-train": ("rmc.train_memory", "main"),
    "rmc-train-rnn": ("rmc.train_rnn", "main"),
    "rmc-generate": ("rmc.generate", "main"),
    "rmc-generate-rnn": ("rmc.generate", "main_rnn"),
    "selfish-train": ("selfish.train", "main"),
    "selfish-train-onlstm": ("selfish.train_onlstm", "main"),
    "selfish-train-mos": ("selfish.train_mos", "main"),
}

# (script, flag, property): why ours differs. An entry that differs no more fails.
DEVIATIONS = {
    ("revrnn-train", "--data", "choices"): "every data set's name and every directory of a corpus is good too",
    ("revrnn-nmt-train", "-data", "default"): "a run that is resumed knows its data",
    ("revrnn-nmt-train", "-data", "required"): "a run that is resumed knows its data",
    ("awdlm-train", "--resume", "default"): "no path means the run of --run_dir or the newest, so text cannot mean off",
    ("selfish-train-onlstm", "--resume", "default"): "as of awdlm-train",
    ("rmc-train", "--resume", "kind"): "takes a path, too, beside the number of an epoch",
    ("rmc-train-rnn", "--resume", "kind"): "takes a path, too, beside the number of an epoch",
}
# One meaning of --cuda everywhere: it asks for a GPU. Commands whose original switched the GPU off with it deviate.
DEVIATIONS |= {
    (script, "--cuda", "default"): "--cuda asks for a GPU; the original's --cuda switched it off"
    for script in IMPLEMENTED
    if any(entry["flag"] == "--cuda" and entry["default"] is True for entry in FLAGS[script])
}

KINDS = {"switch": (bool,), "int": (int,), "float": (float,), "str": (str, Path)}


def module_exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its package
        return False


def load(script: str) -> OptionsCommand[Any]:
    """The click command of a console script; skips the test where its package is not installed."""
    module, name = IMPLEMENTED[script]
    if not module_exists(module):
        pytest.skip(f"{module} is not installed")
    command = getattr(importlib.import_module(module), name)
    assert isinstance(command, OptionsCommand)
    return command


def flag_named(command: OptionsCommand[Any], spelling: str) -> Flag:
    """Our flag of exactly this name."""
    matches = [flag for flag in command.flags if plain_key(spelling) in map(plain_key, flag.rules.names)]
    assert matches, f"{command.name} has no {spelling}"
    return matches[0]


def property_of(flag: Flag, name: str) -> Any:
    """A property of our flag in the contract's terms."""
    if name == "default":
        default = None if flag.required else flag.default
        return list(default) if isinstance(default, tuple) else str(default) if isinstance(default, Path) else default
    if name == "choices":
        return None if flag.rules.choices is None else sorted(flag.rules.choices)
    return {"nargs": flag.rules.nargs, "required": flag.required}[name]


def expected(entry: dict[str, Any], name: str) -> Any:
    """The same property in the contract; a path is compared in its plain form, without a leading ``./``."""
    value = entry.get(name, False if name == "required" else None)
    if name == "default" and str(value).startswith("a fresh name per run"):
        return None  # made up when the run starts
    if name == "default" and str(value).endswith(".pt"):
        return str(Path(value))
    return sorted(value) if name == "choices" and value else value


ENTRIES = [
    pytest.param(script, entry, id=f"{script} {entry['flag']}") for script in IMPLEMENTED for entry in FLAGS[script]
]


@pytest.mark.parametrize(("script", "entry"), ENTRIES)
def test_flag_is_as_in_the_original(script: str, entry: dict[str, Any]) -> None:
    flag = flag_named(load(script), entry["flag"])
    assert (flag.kind in KINDS[entry["kind"]]) == ((script, entry["flag"], "kind") not in DEVIATIONS)
    for name in ("default", "nargs", "required", "choices"):
        if name == "choices" and "choices" not in entry:
            continue  # the original took any text, also what it did not know; ours may say which words it knows
        same = property_of(flag, name) == expected(entry, name)
        reason = DEVIATIONS.get((script, entry["flag"], name))
        assert same == (reason is None), f"{name}: {property_of(flag, name)!r} against {expected(entry, name)!r}"


@pytest.mark.parametrize(("script", "entry"), ENTRIES)
def test_every_choice_of_the_original_is_taken(script: str, entry: dict[str, Any]) -> None:
    command = load(script)
    flag = flag_named(command, entry["flag"])
    required = [word for other in command.flags if other.required for word in (other.name, "x")]
    for choice in entry.get("choices", []):
        options = command.resolve([*required, entry["flag"], choice])
        assert str(getattr(options, flag.field)) == choice


@pytest.mark.parametrize(("script", "entry"), ENTRIES)
def test_a_bare_switch_does_what_the_original_did(script: str, entry: dict[str, Any]) -> None:
    command = load(script)
    flag = flag_named(command, entry["flag"])
    if entry["kind"] != "switch":
        assert flag.kind is not bool
        return
    required = [word for other in command.flags if other.required for word in (other.name, "x")]
    turned_on = (script, entry["flag"], "default") in DEVIATIONS or not entry["default"]
    assert getattr(command.resolve([*required, entry["flag"]]), flag.field) is turned_on


def names_only(script: str) -> argparse.ArgumentParser:
    """The original's command line as argparse sees its flags' names."""
    parser = argparse.ArgumentParser()
    for entry in FLAGS[script]:
        parser.add_argument(entry["flag"], action="store_true", dest=entry["flag"])
    return parser


def original(script: str) -> argparse.ArgumentParser:
    """The original's command line."""
    parser = argparse.ArgumentParser()
    for entry in FLAGS[script]:
        default = expected(entry, "default")
        if entry["kind"] == "switch":
            action = "store_false" if default else "store_true"
            parser.add_argument(entry["flag"], action=action, dest=entry["flag"])
        else:
            kind = {"int": int, "float": float, "str": str}[entry["kind"]]
            nargs = entry.get("nargs")
            parser.add_argument(entry["flag"], type=kind, nargs=nargs, default=default, dest=entry["flag"])
    return parser


@pytest.mark.parametrize("script", IMPLEMENTED)
def test_every_abbreviation_that_argparse_took_is_taken(script: str) -> None:
    command, oracle = load(script), names_only(script)
    compared = 0
    for spelling in (entry["flag"] for entry in FLAGS[script]):
        for length in range(len(spelling) - len(spelling.lstrip("-")) + 1, len(spelling) + 1):
            try:
                given = vars(oracle.parse_args([spelling[:length]]))
            except SystemExit:
                continue  # ambiguous there
            (meant,) = (name for name, was_given in given.items() if was_given)
            assert find_flag(spelling[:length], (*command.flags, CONFIG, HELP)) == flag_named(command, meant)
            compared += 1
    assert compared > len(FLAGS[script])


README_LINES = [line for lines in COMMANDS.values() for line in lines if line.split()[0] in IMPLEMENTED]


@pytest.mark.parametrize("line", README_LINES)
def test_readme_command_means_what_it_meant(line: str) -> None:
    script, *words = shlex.split(line)
    command = load(script)
    ours, theirs = to_dict(command.resolve(words)), vars(original(script).parse_args(words))
    for spelling in (entry["flag"] for entry in FLAGS[script]):
        if (script, spelling, "default") not in DEVIATIONS:
            assert ours[flag_named(command, spelling).field] == theirs[spelling], spelling


@pytest.mark.shared
@pytest.mark.parametrize("name", ["flags.yaml", "commands.yaml"])
def test_the_contract_is_the_one_agreed_on(shared: Path, name: str) -> None:
    assert yaml.safe_load((CONTRACTS / name).read_text()) == yaml.safe_load((shared / "spec" / name).read_text())
