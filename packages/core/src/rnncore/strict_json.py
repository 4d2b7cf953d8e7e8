"""JSON that every reader takes: the standard knows neither NaN nor infinities, which `json.dumps` writes by default."""

import json
import math
from typing import Any


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The JSON of dicts, lists, tuples, text and numbers; a number that is not finite becomes null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
