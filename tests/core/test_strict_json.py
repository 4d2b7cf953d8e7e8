import json
import math
from typing import Any

import pytest
from rnncore.strict_json import json_text


@pytest.mark.parametrize("indent", [None, 1])
def test_only_numbers_that_are_not_finite_change(indent: int | None) -> None:
    value: dict[str, Any] = {"text": "NaN", "none": None, "is": True, "many": 10**30, "rows": [[1.5, -0.0], [], (2,)]}
    bad = {"a": math.nan, "b": [math.inf, {"c": (-math.inf, 1.0)}]}
    found = json.loads(json_text({**value, **bad}, indent=indent), parse_constant=pytest.fail)
    assert found == {**value, "rows": [[1.5, -0.0], [], [2]], "a": None, "b": [None, {"c": [None, 1.0]}]}
    assert json_text(value, indent=indent) == json.dumps(value, indent=indent)
