"""A matrix transposed and in a narrower type by one pass.

The libraries' bfloat16 products take up to twice as long where they have to turn an operand round themselves, and
torch's copy of a transpose takes longer still.
"""

from pathlib import Path

import torch
from torch import Tensor

from rnncore import native


def transposed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x [N, K]``, of any strides, as ``[K, N]``, contiguous and of type ``dtype``; no gradient is recorded."""
    x = x.detach()
    if not x.t().is_contiguous() and dtype == torch.bfloat16 and _native(x):
        result: Tensor = torch.ops.rnncore.transposed_bfloat16(x if x.stride(1) == 1 else x.contiguous())
        return result
    return x.t().to(dtype).contiguous()


def _native(x: Tensor) -> bool:
    """Whether there is native code for such a matrix; the first call may compile it."""
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    return native.load(Path(__file__).with_name("kernels") / "transposed.cpp")
