"""The pointwise work of one time step by torch's own operators: where there is no native code, and its oracle.

The operators write into tensors that they are given; gradients by the weights of normalisations are added to.

Shapes: B batch, S slots, N = S + 1 rows (``_m`` the memory's, ``_x`` the input's), Q rows that query (N or S), H heads,
K key size, V value size, F = H (2 K + V), M = H V, G gates of a slot (2 M, 2 or 0).
"""

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5


class _Attention(NamedTuple):
    """What the gradient needs of an attention: normalised values and their scales, ``all [B, N, H, 2 K + V]``."""

    normal: Tensor
    scale: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor
    normal_after: Tensor
    scale_after: Tensor


def attend_forward(
    qkv_m: Tensor,
    qkv_x: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    rows_m: Tensor,
    rows_x: Tensor,
    gamma_after: Tensor,
    beta_after: Tensor,
    heads: int,
    key: int,
    joint: bool,
    y: Tensor,
) -> None:
    """``y [B, Q, M]``: the rows with what they attend to, normalised.

    Args:
        qkv_m, qkv_x: Projections, ``[B, S, F]`` and ``[B, F]``; each head has its query, key and value.
        bias: Of the projections, ``[F]``.
        gamma, beta: Of the normalisation of the projections.
        rows_m, rows_x: Memory ``[B, S, M]`` and input ``[B, M]``.
        gamma_after, beta_after: Of the normalisation of the result.
        heads, key: H and K.
        joint: Whether all rows are normalised together.
        y: Written.
    """
    found = _attention(qkv_m, qkv_x, bias, gamma, beta, rows_m, rows_x, heads, key, joint, y.shape[1])
    torch.addcmul(beta_after, found.normal_after, gamma_after, out=y)


def attend_backward(
    grad_y: Tensor,
    qkv_m: Tensor,
    qkv_x: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    rows_m: Tensor,
    rows_x: Tensor,
    gamma_after: Tensor,
    beta_after: Tensor,
    heads: int,
    key: int,
    joint: bool,
    grad_qkv_m: Tensor,
    grad_qkv_x: Tensor,
    grad_rows_m: Tensor,
    grad_rows_x: Tensor,
    grad_bias: Tensor,
    grad_gamma: Tensor,
    grad_beta: Tensor,
    grad_gamma_after: Tensor,
    grad_beta_after: Tensor,
) -> None:
    """The gradient of `attend_forward`, which is computed once more.

    By projections and the input's row it is written, by the memory's rows it is added, as those by weights.
    """
    queries, slots = grad_y.shape[1], rows_m.shape[1]
    found = _attention(qkv_m, qkv_x, bias, gamma, beta, rows_m, rows_x, heads, key, joint, queries)
    grad = _normalise_gradient(
        grad_y, found.normal_after, found.scale_after, gamma_after, joint, grad_gamma_after, grad_beta_after
    )
    grad_rows_m += grad[:, :slots]
    grad_rows_x.copy_(grad[:, slots]) if queries > slots else grad_rows_x.zero_()
    by_result = _headed(grad, heads)  # [B, H, Q, V]
    by_weights = by_result @ found.value.transpose(2, 3)
    by_product = found.weights * (by_weights - (found.weights * by_weights).sum(3, keepdim=True)) * key**-0.5
    by_all = qkv_m.new_zeros(len(qkv_m), heads, slots + 1, found.normal.shape[2] // heads)
    by_all[:, :, :queries, :key] = by_product @ found.key
    by_all[..., key : 2 * key] = by_product.transpose(2, 3) @ found.query
    by_all[..., 2 * key :] = found.weights.transpose(2, 3) @ by_result
    by_qkv = _normalise_gradient(
        by_all.transpose(1, 2).flatten(2), found.normal, found.scale, gamma, joint, grad_gamma, grad_beta
    )
    grad_bias += by_qkv.sum((0, 1))
    grad_qkv_m.copy_(by_qkv[:, :slots])
    grad_qkv_x.copy_(by_qkv[:, slots])


def rectify_forward(h: Tensor, bias: Tensor, rectified: bool) -> None:
    """In place, adds a layer's ``bias [M]`` to its product ``h [B, Q, M]``, and takes the ReLU if it is rectified."""
    h += bias
    if rectified:
        h.relu_()


def rectify_backward(grad: Tensor, h: Tensor, rectified: bool, grad_product: Tensor, grad_bias: Tensor) -> None:
    """The gradient of `rectify_forward`, from what that left in ``h``; by the product it is written."""
    if rectified:
        torch.ops.aten.threshold_backward.grad_input(grad, h, 0, grad_input=grad_product)
    else:
        grad_product.copy_(grad)
    grad_bias += grad_product.sum((0, 1))


def normalise_forward(y: Tensor, h: Tensor, gamma: Tensor, beta: Tensor, joint: bool, z: Tensor) -> None:
    """``z``: the sum of ``y`` and ``h``, ``[B, Q, M]`` each, normalised."""
    torch.addcmul(beta, _standardised(y + h, joint)[0], gamma, out=z)


def normalise_backward(
    grad_z: Tensor,
    y: Tensor,
    h: Tensor,
    gamma: Tensor,
    beta: Tensor,
    joint: bool,
    grad_sum: Tensor,
    grad_gamma: Tensor,
    grad_beta: Tensor,
) -> None:
    """The gradient of `normalise_forward`; by the sum it is written."""
    normal, scale = _standardised(y + h, joint)
    grad_sum.copy_(_normalise_gradient(grad_z, normal, scale, gamma, joint, grad_gamma, grad_beta))


def gate_forward(
    y: Tensor,
    h: Tensor,
    gamma: Tensor,
    beta: Tensor,
    joint: bool,
    gates: Tensor,
    gates_x: Tensor,
    memory: Tensor,
    next: Tensor,
) -> None:
    """``next [B, S, M]``: the memory after a step.

    Args:
        y, h, gamma, beta, joint: As of `normalise_forward`; the first S rows are the candidates.
        gates: The memory's part of the gates, ``[B, S, G]``, input then forget; becomes the activated gates.
        gates_x: The input's part, ``[B, G]``, with all biases.
        memory: ``[B, S, M]``, the memory before.
        next: Written.
    """
    candidate = torch.addcmul(beta, _standardised(y + h, joint)[0], gamma)[:, : memory.shape[1]]
    if not gates.shape[2]:
        next.copy_(candidate)
        return
    gates.add_(gates_x[:, None]).sigmoid_()
    write, keep = gates.chunk(2, dim=2)
    torch.mul(write, candidate.tanh(), out=next).addcmul_(keep, memory)


def gate_backward(
    grad_next: Tensor,
    y: Tensor,
    h: Tensor,
    gamma: Tensor,
    beta: Tensor,
    joint: bool,
    gates: Tensor,
    memory: Tensor,
    grad_sum: Tensor,
    grad_gates: Tensor,
    grad_gates_x: Tensor,
    grad_memory: Tensor,
    grad_gamma: Tensor,
    grad_beta: Tensor,
) -> None:
    """The gradient of `gate_forward`, from what it left in ``gates``; by sum, gates and memory it is written."""
    normal, scale = _standardised(y + h, joint)
    slots, by_candidates = memory.shape[1], torch.zeros_like(normal)
    if not gates.shape[2]:
        by_candidates[:, :slots] = grad_next
        grad_memory.zero_()
    else:
        candidate = torch.addcmul(beta, normal, gamma)[:, :slots].tanh()
        write, keep = gates.chunk(2, dim=2)
        by_candidates[:, :slots] = grad_next * write * (1 - candidate * candidate)
        torch.mul(grad_next, keep, out=grad_memory)
        by_gates = torch.cat([_narrowed(grad_next * part, write) for part in (candidate, memory)], dim=2)
        torch.mul(by_gates, gates * (1 - gates), out=grad_gates)
        torch.sum(grad_gates, 1, out=grad_gates_x)
    grad_sum.copy_(_normalise_gradient(by_candidates, normal, scale, gamma, joint, grad_gamma, grad_beta))


def _attention(
    qkv_m: Tensor,
    qkv_x: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    rows_m: Tensor,
    rows_x: Tensor,
    heads: int,
    key: int,
    joint: bool,
    queries: int,
) -> _Attention:
    normal, scale = _standardised(torch.cat([qkv_m, qkv_x[:, None]], 1) + bias, joint)
    parts = _headed(torch.addcmul(beta, normal, gamma), heads)
    query, keys, value = parts[:, :, :queries, :key], parts[..., key : 2 * key], parts[..., 2 * key :]
    weights = torch.softmax(query @ keys.transpose(2, 3) * key**-0.5, dim=3)
    result = (weights @ value).transpose(1, 2).flatten(2)
    rows = torch.cat([rows_m, rows_x[:, None]], 1)[:, :queries]
    return _Attention(normal, scale, query, keys, value, weights, *_standardised(rows + result, joint))


def _headed(rows: Tensor, heads: int) -> Tensor:
    """``[B, N, H .]`` to ``[B, H, N, .]``."""
    return rows.view(*rows.shape[:2], heads, rows.shape[2] // heads).transpose(1, 2)


def _standardised(x: Tensor, joint: bool) -> tuple[Tensor, Tensor]:
    """``x [B, Q, M]`` with zero mean and unit variance, of a row or of all, and the factor that made it so."""
    axes = (1, 2) if joint else (2,)
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    scale = (variance + EPSILON).rsqrt()
    return (x - mean) * scale, scale


def _normalise_gradient(
    grad: Tensor, normal: Tensor, scale: Tensor, gamma: Tensor, joint: bool, grad_gamma: Tensor, grad_beta: Tensor
) -> Tensor:
    axes = (1, 2) if joint else (2,)
    shared = (0,) if joint else (0, 1)
    grad_gamma += (grad * normal).sum(shared)
    grad_beta += grad.sum(shared)
    by_normal = grad * gamma
    slope = (by_normal * normal).mean(axes, keepdim=True)
    return scale * (by_normal - by_normal.mean(axes, keepdim=True) - normal * slope)


def _narrowed(grad: Tensor, gate: Tensor) -> Tensor:
    """The gradient by a gate that may stand for a whole row."""
    return grad if gate.shape[2] == grad.shape[2] else grad.sum(2, keepdim=True)
