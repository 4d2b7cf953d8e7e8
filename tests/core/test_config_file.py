"""Configuration files: which YAML is read as what, what is written, and how mistakes are told."""

from pathlib import Path

import pytest
import yaml
from rnncore.config_file import config_text, read_config
from rnncore.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.2e-06", 1.2e-06),
        ("-.5", -0.5),
        ("+2.", 2.0),
        ("1E5", 1e5),
        ("20", 20),
        ("-1", -1),
        ("0", 0),
        ("010", "010"),
        ("1:30", "1:30"),
        ("off", "off"),
        ("no", "no"),
        ("2024-01-02", "2024-01-02"),
        ("1_000", "1_000"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("[25, 35]", [25, 35]),
        ("'20'", "20"),
        (".inf", float("inf")),
        ("e5", "e5"),
        (".", "."),
    ],
)
def test_scalars_follow_the_core_schema(tmp_path: Path, text: str, value: object) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"key: {text}\n")
    read = read_config(path)["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("content", ["", "\n# nothing but a comment\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert read_config(path) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"lr: 1\nmodel: [gru\nclip: 2\n", "config.yaml, line 3: not valid YAML"),
        (b"lr: 1\nlr: 2\n", "config.yaml, line 2: not valid YAML: lr stands twice"),
        (b"lr: !!python/object:os.system x\n", "config.yaml, line 1: not valid YAML"),
        (b"lr: \xff\xfe\n", "config.yaml: not valid YAML"),
        (b"lr: \x00\n", "config.yaml: not valid YAML"),
        (b"lr: " + b"9" * 5000 + b"\n", "config.yaml: not valid YAML"),
        (b"[" * 600, "config.yaml: not valid YAML"),
        (b"- lr\n- clip\n", "a list of lines such as 'lr: 20'"),
        (b"lr 20\n", "a list of lines such as 'lr: 20'"),
        (b"? [a, b]\n: 1\n", "config.yaml, line 1: not valid YAML"),
        (b"a: 1\n---\nb: 1\n", "config.yaml, line 2: not valid YAML"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_config(path)
    assert told in error.value.message
    assert "\n" not in error.value.message


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the configuration .*absent\.yaml: No such file"):
        read_config(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot read the configuration"):
        read_config(tmp_path)


def test_what_is_written_is_read_back_by_us_and_by_plain_yaml(tmp_path: Path) -> None:
    values = {
        "tiny": 1e-06,
        "odd": 0.1 + 0.2,
        "count": -1,
        "looks_like_a_number": "1e-3",
        "looks_like_a_boolean": "off",
        "nothing": None,
        "empty": "",
        "when": [25, 35],
        "no_cutoffs": [],
        "switch": True,
        "text": "ünïcode: # 'quoted' " + "long " * 60,
        "lines": "one\ntwo",
    }
    path = tmp_path / "config.yaml"
    path.write_text(config_text(values), encoding="utf-8")
    assert read_config(path) == values
    assert list(read_config(path)) == list(values)
    for old_schema_key in ("looks_like_a_boolean", "looks_like_a_number", "tiny", "odd", "when"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))[old_schema_key] == values[old_schema_key]


def test_a_list_takes_one_line() -> None:
    assert config_text({"when": [25, 35], "lr": 3.0}) == "when: [25, 35]\nlr: 3.0\n"
