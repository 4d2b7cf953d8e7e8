"""Penalties on what a recurrent network puts out (Merity et al. 2017, arXiv 1708.02182, section 4.6)."""

import torch
from torch import Tensor


def activation_penalty(dropped: Tensor, alpha: float) -> Tensor:
    """``alpha`` times the mean square of the last layer's dropped outputs ``[T, B, H]`` (AR, section 4.6)."""
    return alpha * dropped.float().pow(2).mean() if dropped.dtype == torch.bfloat16 else alpha * dropped.pow(2).mean()


def temporal_penalty(raw: Tensor, beta: float) -> Tensor:
    """``beta`` times the mean square of the last layer's changes from step to step, ``[T, B, H]`` (TAR, section 4.6).

    A window of one step changes nothing and costs nothing.
    """
    if len(raw) < 2:
        return raw.new_zeros(())
    raw = raw.float() if raw.dtype == torch.bfloat16 else raw
    return beta * (raw[1:] - raw[:-1]).pow(2).mean()
