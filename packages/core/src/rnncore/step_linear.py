"""The product of a recurrent step: few rows, the same weight at every time step of a window.

Shapes: B rows (the batch), K inputs, N outputs.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

from rnncore.panel_linear import PanelLinear
from rnncore.transposed import transposed

#: Rows up to which the core's panels are faster than a library that lays the weight out anew at each call; of weights
#: that are beyond a core's own cache, up to the second number.
FEW_ROWS, FEW_ROWS_OF_LARGE, LARGE = 64, 128, 2**19


class StepLinear:
    """``x @ weight.T`` for one fixed weight and many calls with the same number of rows.

    The weight is laid out once for what is fastest with few rows: on Intel's processors, in float32 and float64, in the
    core's panels (`rnncore.panel_linear`); on others, in float32 and bfloat16, for oneDNN's packed product; elsewhere,
    and for more rows, with its inputs as rows, for ``torch.mm``. The choice depends on the machine and on sizes alone,
    and calls with equal inputs give equal bits, which exact reversal and exact resumption rely on. No gradient is
    recorded.
    """

    def __init__(self, weight: Tensor, rows: int, dtype: torch.dtype | None = None) -> None:
        """Lays a weight out.

        Args:
            weight: ``[N, K]``, any strides.
            rows: How many rows ``x`` will have.
            dtype: The type to multiply in; the weight's own when absent.
        """
        dtype = dtype or weight.dtype
        self.packed = use_packed(weight.device.type, dtype)
        self.panels: PanelLinear | None = None
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(transposed(weight.t(), dtype), rows)
        elif dtype == weight.dtype and _few(rows, weight) and PanelLinear.available(weight.device, dtype):
            self.panels = PanelLinear(weight)
        else:
            self.weight = transposed(weight, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """``x [B, K]`` to ``[B, N]``, in the type of x."""
        if self.panels is not None:
            return self.panels(x)
        rows = x.to(self.weight.dtype)
        if self.packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.weight, None, "none", [], "")
        else:
            product = torch.mm(rows, self.weight)
        return product.to(x.dtype)

    def write(self, result: Tensor, x: Tensor) -> None:
        """Writes the product of ``x [B, K]`` to ``result [B, N]``, contiguous."""
        if self.panels is not None:
            self.panels.write(result, x)
        elif self.packed or x.dtype != self.weight.dtype:
            result.copy_(self(x))
        else:
            torch.mm(x, self.weight, out=result)

    def add_to(self, total: Tensor, x: Tensor) -> None:
        """Adds the product of ``x [B, K]`` to ``total [B, N]``."""
        if self.panels is not None or self.packed or x.dtype != self.weight.dtype:
            total += self(x)
        else:
            total.addmm_(x, self.weight)


@functools.cache
def use_packed(device: str, dtype: torch.dtype) -> bool:
    """Whether oneDNN's packed product is to be used: where MKL's is slow, and the private operator works."""
    if device != "cpu" or dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.float32 and _is_intel():
        return False
    x, weight = torch.ones(2, 16, dtype=dtype), torch.eye(16, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 2)
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), x)
    except (RuntimeError, AttributeError):
        return False


def _few(rows: int, weight: Tensor) -> bool:
    return rows <= (FEW_ROWS_OF_LARGE if weight.numel() >= LARGE else FEW_ROWS)


def _is_intel() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
