"""The continuous cache (Grave, Joulin, Usunier 2016, arXiv 1612.04426, section 3), in matrix products over blocks.

A language model's state is compared with the states it had at earlier positions of the text; each of them votes for
the token that followed it. With states h, tokens x and the position i that predicts x[i + 1],

    p_cache(w)  is proportional to  sum over j, i - window <= j < i and x[j + 1] = w, of exp(theta h[i] . h[j])
    p(w)  =  (1 - lambdasm) p_vocab(w) + lambdasm p_cache(w)

Shapes: n consecutive positions of one text, E features of a state, V vocabulary.
"""

import math

import torch
from rnncore.errors import UserError
from torch import Tensor
from torch.nn import functional as F

#: Most positions that one matrix product compares with their histories: fewer than 96 are slower, more no faster.
BLOCK_ROWS = 128
#: Most scores of one block, 8 MiB in float32; up to four tensors of this size exist at a time.
BLOCK_SCORES = 2**21


class ContinuousCache:
    """The states and following tokens of the last ``window`` positions of one text.

    Each call goes on where the one before it ended: how a text is cut into calls changes the numbers by rounding only.
    Float32 and float64 states are kept as they are, shorter ones as float32; memory does not depend on V.
    """

    def __init__(self, *, window: int, theta: float, partial: bool = False) -> None:
        """An empty cache.

        Args:
            window: How many positions a position looks back.
            theta: Sharpness; 0 lets every position of the window vote alike.
            partial: Whether the cache is used from the second position on, with as much history as there is. Otherwise
                a text's first ``window + 1`` positions do without it.

        Raises:
            UserError: ``window`` below 1; ``theta`` negative or not finite.
        """
        if window < 1:
            raise UserError(f"--window must be at least 1, not {window}")
        if not (math.isfinite(theta) and theta >= 0):
            raise UserError(f"--theta must be a number of at least 0, not {theta}")
        self.window, self.theta, self.partial = window, theta, partial
        self.position = 0
        self._first_used = 1 if partial else window + 1
        self._block = max(1, min(BLOCK_ROWS, BLOCK_SCORES // (window + BLOCK_ROWS)))
        self._states, self._tokens, self._end = torch.empty(0, 0), torch.empty(0, dtype=torch.int64), 0

    @property
    def ready(self) -> bool:
        """Whether the next position uses the cache."""
        return self.position >= self._first_used

    def used(self, count: int, device: torch.device | None = None) -> Tensor:
        """Which of the next ``count`` positions use the cache, bool ``[count]``; to be asked before they are added."""
        return torch.arange(self.position, self.position + count, device=device) >= self._first_used

    @torch.no_grad()
    def add(self, states: Tensor, tokens: Tensor) -> None:
        """Adds the next n positions.

        Args:
            states: ``[n, E]``; copied.
            tokens: int64 ``[n]``, the token that follows each position.

        Raises:
            ValueError: Shapes that do not fit; states of another size, type or device than those before.
        """
        states = self._checked(states, tokens)
        for rows in self._rows(len(states)):
            self._add(states[rows], tokens[rows])

    @torch.no_grad()
    def probability_of_targets(self, states: Tensor, targets: Tensor) -> Tensor:
        """p_cache(target) of the next n positions, which are then added.

        Args:
            states: ``[n, E]``.
            targets: int64 ``[n]``, the token that follows each position.

        Returns:
            ``[n]``; 0 where the cache is not used.

        Raises:
            ValueError: As for `add`.
        """
        states = self._checked(states, targets)
        probability = states.new_zeros(len(states))
        for rows in self._rows(len(states)):
            block = states[rows]
            count = min(len(block), max(0, self.position + len(block) - self._first_used))
            self._add(block, targets[rows])
            if count:
                probability[rows][-count:] = self._probability_of_last(count)
        return probability

    def mixed_log_probability(self, log_vocab: Tensor, states: Tensor, targets: Tensor, *, lambdasm: float) -> Tensor:
        """log p(target) of the next n positions, in nats, which are then added.

        Args:
            log_vocab: ``[n]``, the model's own log probability of each target.
            states, targets: As for `probability_of_targets`.
            lambdasm: The cache's share, 0 to 1.

        Returns:
            ``[n]``; ``log_vocab`` where the cache is not used.

        Raises:
            ValueError, UserError: As for `add` and `mix`.
        """
        used = self.used(len(targets), log_vocab.device)
        return mix(log_vocab, self.probability_of_targets(states, targets), lambdasm, used)

    @torch.no_grad()
    def distribution(self, state: Tensor, vocabulary_size: int) -> Tensor:
        """p_cache of every token at the next position, which is not added; also where `ready` is false.

        Args:
            state: ``[E]``.
            vocabulary_size: V.

        Returns:
            ``[V]``, of the states' type; sums to 1.

        Raises:
            ValueError: The cache is empty, or ``state`` is not like the states in it.
        """
        if self.position == 0:
            raise ValueError("the continuous cache is empty: there is no distribution yet")
        query = self._checked(state[None], self._tokens[:1])[0]
        held = slice(self._end - min(self.window, self.position), self._end)
        with torch.autocast(query.device.type, enabled=False):
            weights = torch.softmax(self._states[held] @ (self.theta * query), 0)
        return query.new_zeros(vocabulary_size).index_add_(0, self._tokens[held], weights)

    def _probability_of_last(self, count: int) -> Tensor:
        """p_cache of the tokens of the last ``count`` positions held, each with the window before it."""
        last, before = slice(self._end - count, self._end), self.position - count
        window = min(self.window, self.position - 1)
        missing = max(0, window - before)
        keys = slice(last.start - (window - missing), last.stop - 1)
        tokens = self._tokens[keys]
        with torch.autocast(self._states.device.type, enabled=False):  # exp would multiply bfloat16's rounding
            scores = (self.theta * self._states[last]) @ self._states[keys].t()
        if missing:  # columns for positions before the text
            scores, tokens = F.pad(scores, (missing, 0), value=-math.inf), F.pad(tokens, (missing, 0))
        # Row r's window is columns r to r + window - 1: a stride of one row and one column shows just these.
        weights = torch.softmax(scores.as_strided((count, window), (window + count, 1)), 1)
        others = tokens.unfold(0, window, 1) != self._tokens[last, None]
        return weights.masked_fill_(others, 0).sum(1)

    def _rows(self, count: int) -> list[slice]:
        return [slice(start, start + self._block) for start in range(0, count, self._block)]

    def _checked(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The states in the type that the cache keeps."""
        if states.dim() != 2 or tokens.shape != states.shape[:1]:
            raise ValueError(f"needs states [n, E] and tokens [n], got {list(states.shape)} and {list(tokens.shape)}")
        if states.dtype in (torch.bfloat16, torch.float16):
            states = states.float()
        if self.position == 0:
            self._states, self._tokens = states.new_empty(0, states.shape[1]), tokens.new_empty(0)
        kept = self._states
        if (states.shape[1], states.dtype, states.device) != (kept.shape[1], kept.dtype, kept.device):
            raise ValueError(
                f"the cache holds states of {kept.shape[1]} {kept.dtype} on {kept.device}, "
                f"not of {states.shape[1]} {states.dtype} on {states.device}"
            )
        return states

    def _add(self, states: Tensor, tokens: Tensor) -> None:
        """Adds at most one block; the ``window`` positions before it are still there afterwards."""
        count, end = len(states), self._end
        if end + count > len(self._states):
            kept = slice(max(0, end - self.window), end)
            end = kept.stop - kept.start
            room = 2 * (end + count)  # twice what is needed: a position is moved about once
            old_states, old_tokens = self._states[kept], self._tokens[kept]
            self._states = old_states.new_empty(room, states.shape[1])
            self._tokens = old_tokens.new_empty(room)
            self._states[:end], self._tokens[:end] = old_states, old_tokens
        self._states[end : end + count], self._tokens[end : end + count] = states, tokens
        self._end = end + count
        self.position += count


def mix(log_vocab: Tensor, p_cache: Tensor, lambdasm: float, used: Tensor | None = None) -> Tensor:
    """log((1 - lambdasm) exp(log_vocab) + lambdasm p_cache), in nats: the paper's linear interpolation.

    Exact where a probability is too small for its type, since the sum is taken of logarithms.

    Args:
        log_vocab: The model's log probabilities, ``[n]`` of targets or ``[V]`` of all tokens.
        p_cache: The cache's probabilities of the same.
        lambdasm: The cache's share, 0 to 1.
        used: bool, where the cache is used; everywhere when absent. Elsewhere the result is ``log_vocab``.

    Raises:
        UserError: ``lambdasm`` outside 0 to 1.
    """
    if not 0 <= lambdasm <= 1:
        raise UserError(f"--lambdasm must lie between 0 and 1, not {lambdasm}")
    share = math.log(lambdasm) if lambdasm > 0 else -math.inf
    rest = math.log1p(-lambdasm) if lambdasm < 1 else -math.inf
    mixed = torch.logaddexp(log_vocab + rest, p_cache.log() + share)
    return mixed if used is None else torch.where(used, mixed, log_vocab)
