import math

import pytest
from rnncore.loss_units import converted


@pytest.mark.parametrize("types", [2, 50, 10_000])
def test_a_guess_among_so_many_types(types: int) -> None:
    """Its perplexity is their number, and it costs as many bits as it takes to number them."""
    assert converted(math.log(types), "ppl") == pytest.approx(types, rel=1e-12)
    assert converted(math.log(types), "bpc") == pytest.approx(math.log2(types), rel=1e-12)


def test_losses_that_have_no_perplexity() -> None:
    assert converted(800.0, "ppl") == converted(math.inf, "ppl") == math.inf
    assert converted(800.0, "bpc") == pytest.approx(800 / math.log(2))
    assert math.isnan(converted(math.nan, "ppl"))
