"""A trained model as a file of its non-zero weights, and which form of a weight multiplies fastest.

The file holds, for each sparse matrix, CSR or blocks: the values, the columns and where the rows begin. Loaded, it
gives the dense state of the model again, to the bit (a -0.0 apart, which becomes 0.0), or modules that multiply by the
sparse form where that is faster. At the densities of the paper, 0.3 to 0.5, dense products usually win on processors
and on GPUs: then the weights are stored sparse and computed dense, and `Report` says so.
"""

import contextlib
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rnncore import checkpoint
from rnncore.errors import UserError
from torch import Tensor
from torch.nn import functional as F

from selfish.selection import count

KIND = "selfish-export"
FORMS = ("csr", "blocks", "dense")
#: Rows and columns of a block.
BLOCK = 4

Stored = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One weight: its density, bytes dense and stored, and milliseconds of a product by form.

    ``fastest`` is the form to compute with; ``stored`` the form in the file.
    """

    name: str
    density: float
    dense_bytes: int
    stored_bytes: int
    stored: str
    milliseconds: dict[str, float]

    @property
    def fastest(self) -> str:
        """The form with the least time; dense where none was measured."""
        return min(self.milliseconds, key=self.milliseconds.__getitem__, default="dense")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `export` wrote."""

    choices: tuple[Choice, ...]
    dense_bytes: int
    file_bytes: int

    def __str__(self) -> str:
        """A table, and in one line what to make of it."""
        width = max((len(choice.name) for choice in self.choices), default=0) + 2
        lines = [f"{'':{width}} density  dense MB stored MB  as       ms dense     csr   blocks  compute"]
        for choice in self.choices:
            times = " ".join(
                f"{choice.milliseconds.get(form, float('nan')):8.3f}" for form in ("dense", "csr", "blocks")
            )
            lines.append(
                f"{choice.name:{width}} {choice.density:7.4f} {choice.dense_bytes / 2**20:9.2f} "
                f"{choice.stored_bytes / 2**20:9.2f}  {choice.stored:6} {times}  {choice.fastest}"
            )
        slower = [choice for choice in self.choices if choice.fastest == "dense"]
        lines.append(f"file {self.file_bytes / 2**20:.2f} MB, dense model {self.dense_bytes / 2**20:.2f} MB")
        if slower:
            lines.append(
                f"sparse products are slower for {len(slower)} of {len(self.choices)} weights: "
                "these are stored sparse and computed dense"
            )
        return "\n".join(lines)


def export(
    state: Mapping[str, Tensor],
    path: Path,
    *,
    rows: int = 1,
    repeats: int = 20,
    config: Mapping[str, Any] | None = None,
) -> Report:
    """Writes a model's ``state_dict`` with its non-zeros only, after measuring which form multiplies fastest.

    Args:
        state: Matrices that are sparse enough are stored sparse, all else as it is.
        path: The file, for `load`; it needs no code of this package to be read with ``torch.load``.
        rows: Vectors that a product takes at a time: the batch of the inference.
        repeats: Measurements of each form; 0 does not measure.
        config: Plain data to store beside the weights.

    Raises:
        UserError: The file cannot be written.
    """
    stored: dict[str, Stored] = {}
    choices: list[Choice] = []
    shared = _first_of_shared(state)
    for name in dict.fromkeys(shared.values()):
        value = state[name].detach().cpu()
        density = count(value) / max(value.numel(), 1)
        if value.ndim != 2 or not value.is_floating_point() or density == 1:
            stored[name] = {"form": "dense", "values": value}
            continue
        times = time_products(value, rows, repeats) if repeats else {}
        stored[name] = _smaller(value)
        choices.append(
            Choice(
                name=name,
                density=density,
                dense_bytes=_bytes(value),
                stored_bytes=_room(stored[name]),
                stored=str(stored[name]["form"]),
                milliseconds=times,
            )
        )
    fastest = {choice.name: choice.fastest for choice in choices}
    forms = {name: fastest[first] for name, first in shared.items() if first in fastest}
    weights = {name: stored[first] for name, first in shared.items()}
    content = {"kind": KIND, "weights": weights, "compute": forms, "export_config": dict(config or {})}
    checkpoint.save(path, content, keep_previous=False)
    return Report(
        choices=tuple(choices),
        dense_bytes=sum(_bytes(state[name]) for name in stored),
        file_bytes=path.stat().st_size,
    )


def _first_of_shared(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Of each name the first whose tensor is the same memory, as an embedding's and that of a decoder tied to it."""
    first: dict[object, str] = {}
    return {
        name: first.setdefault((value.data_ptr(), value.dtype, value.shape, value.stride()), name)
        for name, value in state.items()
    }


def load(path: Path) -> dict[str, Tensor]:
    """The dense ``state_dict`` of an exported model. Raises UserError for a file that is none or is damaged."""
    return {name: unpacked(weight) for name, weight in _read(path)["weights"].items()}


def load_for_products(path: Path) -> dict[str, Tensor]:
    """As `load`, with each matrix in the form that multiplied fastest when it was exported: CSR, BSR or dense.

    `sparse_linear` takes any of them.
    """
    saved = _read(path)
    forms: dict[str, str] = saved["compute"]
    return {name: converted(unpacked(weight), forms.get(name, "dense")) for name, weight in saved["weights"].items()}


def sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` for x ``[..., I]`` and weight ``[O, I]``, dense, CSR or BSR; without gradient."""
    if weight.layout == torch.strided:
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    product = (weight @ flat.t()).t()
    if bias is not None:
        product = product + bias
    return product.reshape(*x.shape[:-1], weight.shape[0])


def converted(weight: Tensor, form: str) -> Tensor:
    """``weight`` in a form of `FORMS`; blocks need rows and columns that `BLOCK` divides."""
    with _no_beta_warning():
        if form == "csr":
            return weight.to_sparse_csr()
        return weight.to_sparse_bsr((BLOCK, BLOCK)) if form == "blocks" else weight


def time_products(weight: Tensor, rows: int, repeats: int) -> dict[str, float]:
    """Milliseconds (median) of `sparse_linear` for x ``[rows, I]``, by form, measured in turn.

    A form that torch cannot multiply here is left out, and so are blocks that hold more zeros than weights.
    """
    x = torch.randn(rows, weight.shape[1], dtype=weight.dtype)
    held = {form: converted(weight, form) for form in FORMS if form != "blocks" or _fills_blocks(weight)}
    times: dict[str, list[float]] = {}
    for form, matrix in held.items():
        with contextlib.suppress(RuntimeError):  # no such kernel in this build
            sparse_linear(x, matrix)
            times[form] = []
    for _ in range(repeats):
        for form, found in times.items():
            begin = time.perf_counter()
            sparse_linear(x, held[form])
            found.append(time.perf_counter() - begin)
    return {form: 1e3 * statistics.median(found) for form, found in times.items()}


def _fills_blocks(weight: Tensor) -> bool:
    if weight.shape[0] % BLOCK or weight.shape[1] % BLOCK:
        return False
    filled = count(F.max_pool2d((weight != 0).float()[None], BLOCK))
    return filled * BLOCK**2 <= 2 * count(weight)


def unpacked(stored: Stored) -> Tensor:
    """The dense weight of one entry of the file."""
    values: Tensor = stored["values"]
    if stored["form"] == "dense":
        return values
    (rows, columns), starts, places = stored["shape"], stored["starts"].long(), stored["columns"].long()
    high, wide = values.shape[1:] or (1, 1)
    blocks = values.new_zeros(rows // high, columns // wide, high, wide)
    blocks[torch.repeat_interleave(torch.arange(len(blocks)), starts.diff()), places] = values.view(-1, high, wide)
    return blocks.transpose(1, 2).reshape(rows, columns)


def _smaller(weight: Tensor) -> Stored:
    """The form that takes the least room: blocks where non-zeros lie together, dense where they are many."""
    found: list[Stored] = [{"form": "dense", "values": weight}, _packed(weight, "csr")]
    if _fills_blocks(weight):
        found.append(_packed(weight, "blocks"))
    return min(found, key=_room)


def _room(stored: Stored) -> int:
    return sum(_bytes(part) for part in stored.values() if isinstance(part, Tensor))


def _packed(weight: Tensor, form: str) -> Stored:
    sparse = converted(weight, form)
    narrow = torch.int16 if weight.shape[1] < 2**15 else torch.int32  # columns; where rows begin takes 32 bits
    return {
        "form": form,
        "shape": list(weight.shape),
        "starts": sparse.crow_indices().to(torch.int32),
        "columns": sparse.col_indices().to(narrow),
        "values": sparse.values().clone(),
    }


def _read(path: Path) -> dict[str, Any]:
    saved = checkpoint.load(path, kind=KIND)
    if not isinstance(saved.get("weights"), dict):
        raise UserError(f"{path} is not an exported model")
    return saved


@contextlib.contextmanager
def _no_beta_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse .* tensor support is in beta state")
        yield


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
