"""Functions that `torch.compile` leaves as they are: those with kernels and gradients of their own."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Result = TypeVar("Result")


def opaque(function: Callable[P, Result]) -> Callable[P, Result]:
    """Decorate a function so that `torch.compile` calls it as it is, and compiles what is around it.

    Loading torch's compiler takes seconds: a process that has not loaded it compiles nothing, and calls the function.
    """
    apart: list[Callable[P, Result]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Result:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not apart:
            reason = "its kernels and gradient are its own"
            apart.append(torch.compiler.disable(function, reason=reason))  # type: ignore[no-untyped-call]
        return apart[0](*args, **kwargs)

    return call
