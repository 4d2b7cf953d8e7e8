"""Fixtures that every package's tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data (corpora, golden numbers), beside the checkout or named by ``RNN_SHARED``."""
    folder = Path(os.environ.get("RNN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "goldens").is_dir():
        pytest.skip(f"no reference data in {folder}; set RNN_SHARED to the folder that holds goldens/ and data/")
    return folder
