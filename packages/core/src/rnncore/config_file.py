"""Configuration files: YAML, one flat mapping from a flag's name to its value.

Numbers and booleans are read by the YAML 1.2 core schema. PyYAML's own older rules surprise people who write
configurations: there ``1e-3`` is text, ``off`` is a boolean, ``1:30`` is 90 and ``010`` is 8.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path

import yaml

from rnncore.errors import UserError

CORE_SCHEMA = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """Safe YAML with the core schema; a key that stands twice in one mapping is an error."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (overrides an attribute of PyYAML's class)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        keys: set[object] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either schema would read as something else, and writes a list on one line."""


def _represent_list(dumper: yaml.SafeDumper, values: list[object]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_Dumper.add_representer(list, _represent_list)

for _name, _pattern in CORE_SCHEMA.items():
    for _schema in (_Loader, _Dumper):
        _schema.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), None)


def read_config(path: Path) -> dict[object, object]:
    """The keys and values of a configuration file, as YAML types; an empty file is an empty mapping.

    Raises UserError, naming the file and where known the line, if it cannot be read or is not a mapping.
    """
    try:
        content = yaml.load(path.read_bytes(), Loader=_Loader)
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # characters, numbers, depth beyond the limits
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: a configuration is a list of lines such as 'lr: 20', one for each flag")
    return content


def config_text(values: Mapping[str, object]) -> str:
    """A mapping of plain values as YAML, in the mapping's order, one line a key; :func:`read_config` reads it back."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
