"""The task Nth farthest (Santoro et al. 2018, section 4.1): which vector is the N-th farthest from vector M?

Shapes: O objects, D dimensions, B batch; an input has D + 3 O numbers.
"""

import numpy as np
import torch
from rnncore.errors import UserError
from torch import Tensor
from torch.nn import functional as F


def farthest_batch(
    generator: torch.Generator, batch_size: int, objects: int = 8, dimensions: int = 16
) -> tuple[Tensor, Tensor]:
    """New questions and their answers, drawn on the generator's device, all at once.

    The O vectors of a question are uniform on (-1, 1)^D and have the labels 0 .. O - 1 in a random order. A step shows
    a vector, its label, N and M, the last three one-hot; N and M are the same at every step. N = 0 asks for the
    farthest, N = O - 1 for M itself. The answer is a label.

    Args:
        generator: Source of the draws.
        batch_size: B.
        objects: O, which are also the steps.
        dimensions: D.

    Returns:
        Inputs ``[O, B, D + 3 O]``, float32, and answers ``[B]``, int64.

    Raises:
        UserError: There are fewer than two objects, or no dimension.
    """
    if objects < 2 or dimensions < 1:
        raise UserError(f"the task needs two objects and one dimension at least, not {objects} and {dimensions}")
    place = generator.device
    vectors = torch.rand(batch_size, objects, dimensions, generator=generator, device=place) * 2 - 1
    labels = torch.rand(batch_size, objects, generator=generator, device=place).argsort(1)
    rank, target = torch.randint(objects, (2, batch_size, 1), generator=generator, device=place)
    inputs, answers = assemble(vectors, labels, rank, target)
    return inputs, answers


def assemble(vectors: Tensor, labels: Tensor, rank: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs and answers of questions.

    Args:
        vectors: ``[B, O, D]``.
        labels: Of the vectors, ``[B, O]``.
        rank: N, ``[B, 1]``.
        target: M, the label of the vector from which distances are measured, ``[B, 1]``.
    """
    objects = vectors.shape[1]
    place = (labels == target).float().argmax(1)
    centre = vectors[torch.arange(len(vectors), device=vectors.device), place]
    distances = (vectors - centre[:, None]).square().sum(2)
    answers = labels.gather(1, distances.argsort(1, descending=True).gather(1, rank)).squeeze(1)
    shown = [F.one_hot(index.expand(-1, objects), objects) for index in (labels, rank, target)]
    return torch.cat([vectors, *(each.to(vectors.dtype) for each in shown)], 2).transpose(0, 1).contiguous(), answers


def generator_for(seed: int, purpose: int, number: int, device: torch.device) -> torch.Generator:
    """A generator whose draws are a function of a run's seed, a purpose and a number, and of nothing else."""
    state = np.random.SeedSequence((seed, purpose, number)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))
