"""Beam search over many sentences at once.

As OpenNMT-py's, sentence by sentence the same: a sentence is done when its best beam ends and ``n_best`` hypotheses
have; finished ones are ranked by their score with the penalties of Wu et al. 2016 (arXiv 1609.08144, section 7), while
the search itself goes by probability alone.

Shapes: N sentences still searched, K beams, V vocabulary, S source words.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from revrnn.translation.likeliest import NEVER
from revrnn.translation.model import BEGIN, END, PADDING

Array = np.ndarray[Any, Any]


class Penalties(NamedTuple):
    """``alpha`` divides a score by ((5 + length) / 6)**alpha; ``beta`` punishes source words that got no attention."""

    alpha: float = 0.0
    beta: float = 0.0


class Hypothesis(NamedTuple):
    """A translation: ``words`` without BEGIN and END, its score, and its attention ``[words, S]`` (None without)."""

    words: list[int]
    score: float
    attention: Tensor | None


class _Step(NamedTuple):
    """What one step left, on the host: of each sentence searched then, by beam ``[N, K]``; ``attention [N, K, S]``.

    ``row`` says which sentence is where.
    """

    words: Array
    parents: Array
    scores: Array
    ranked: Array
    row: dict[int, int]
    attention: Tensor | None


class BeamSearch:
    """The beams of some sentences."""

    def __init__(
        self,
        sentences: int,
        beams: int,
        *,
        device: torch.device | str = "cpu",
        n_best: int = 1,
        min_length: int = 0,
        penalties: Penalties | None = None,
        padding: Tensor | None = None,
    ) -> None:
        """Begins.

        Args:
            sentences: N.
            beams: K.
            device: Where the search goes on.
            n_best: How many hypotheses of a sentence are wanted, at most K.
            min_length: No sentence ends while BEGIN and its words are fewer.
            penalties: None ranks by probability.
            padding: bool ``[N, S]``, true past a sentence's end, where no attention is missed; None if all are as long.
        """
        self.beams, self.n_best, self.min_length, self.penalties = beams, n_best, min_length, penalties
        self.searched = list(range(sentences))
        self.words = torch.full((sentences, beams), PADDING, device=device)
        self.words[:, 0] = BEGIN
        self.scores = torch.zeros(sentences, beams, device=device)
        self.coverage: Tensor | None = None
        self.padding = padding
        self.steps: list[_Step] = []
        self.finished: list[list[tuple[float, int, int]]] = [[] for _ in range(sentences)]
        self.last_step = [0] * sentences

    @property
    def barred(self) -> int | None:
        """The word that must not come next: `END`, while sentences are too short."""
        return END if len(self.steps) + 1 < self.min_length else None

    def advance(self, scores: Tensor, words: Tensor, attention: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Chooses the next words.

        Args:
            scores: Log-probabilities of the likeliest words after each beam, ``[N, K, C]``: as many as there are beams
                or, in a smaller vocabulary, words; that of a barred word is `NEVER`.
            words: Which they are.
            attention: ``[N, K, S]``, or None.

        Returns:
            Which of the N K beams each of the beams that go on (fewer, when sentences are done) comes from; and which
            of the N sentences go on, None for all.
        """
        parents = self._choose(scores, words)
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        if attention is not None:
            attention = attention[rows, parents]
            if self.coverage is not None:
                self.coverage = self.coverage[rows, parents] + attention
            else:
                self.coverage = attention if self.padding is None else attention + self.padding[:, None]
        self._note(parents, attention)
        origin, going = rows * self.beams + parents, self._finish()
        if len(going) == len(self.searched):
            return origin.flatten(), None
        index = torch.tensor(going, dtype=torch.int64, device=parents.device)
        self.searched = [self.searched[row] for row in going]
        self.words, self.scores, origin = self.words[index], self.scores[index], origin[index]
        self.coverage = None if self.coverage is None else self.coverage[index]
        return origin.flatten(), index

    def hypotheses(self) -> list[list[Hypothesis]]:
        """The best of each sentence, at least ``n_best`` (as far as there are beams), best first."""
        result = []
        for number, finished in enumerate(self.finished):
            last = self.last_step[number]
            step = self.steps[last - 1]
            row, spare = step.row[number], range(self.beams)
            missing = max(0, self.n_best - len(finished))
            ended = {beam for _, at, beam in finished if at == last}
            unfinished = [(float(step.ranked[row, beam]), last, beam) for beam in spare if beam not in ended][:missing]
            ranked = sorted([*finished, *unfinished], key=lambda each: -each[0])
            result.append([self._trace(number, *each) for each in ranked])
        return result

    def dump(self, number: int) -> dict[str, list[list[float]] | list[list[int]]]:
        """The beams of a sentence, step by step."""
        steps = self.steps[: self.last_step[number]]
        return {
            "predicted_ids": [step.words[step.row[number]].tolist() for step in steps],
            "beam_parent_ids": [step.parents[step.row[number]].tolist() for step in steps],
            "scores": [step.scores[step.row[number]].tolist() for step in steps],
        }

    def _choose(self, scores: Tensor, words: Tensor) -> Tensor:
        """Sets the new words and scores; returns the beams that they come from, ``[N, K]``."""
        if self.steps:
            totals = scores + self.scores.masked_fill(self.words == END, NEVER)[:, :, None]
        else:
            totals = scores.clone()
            totals[:, 1:] = NEVER  # all beams are the same yet
        self.scores, best = totals.flatten(1).topk(self.beams, dim=1)
        self.words = words.flatten(1).gather(1, best)
        parents: Tensor = best // scores.shape[2]
        return parents

    def _note(self, parents: Tensor, attention: Tensor | None) -> None:
        row = {number: row for row, number in enumerate(self.searched)}
        ranked = self.scores if self.penalties is None else self._penalised(self.penalties)
        # One copy from the device for all: float64 holds ids and float32 scores exactly.
        parts = torch.stack([part.double() for part in (self.words, parents, self.scores, ranked)]).cpu().numpy()
        words, origin = parts[:2].astype(np.int64)
        self.steps.append(_Step(words, origin, parts[2], parts[3], row, attention))

    def _penalised(self, penalties: Penalties) -> Tensor:
        length = len(self.steps) + 2  # BEGIN and the words, this step's with them
        scores: Tensor = self.scores / ((5 + length) / 6) ** penalties.alpha
        if penalties.beta and self.coverage is not None:
            scores = scores + penalties.beta * self.coverage.clamp(max=1).log().sum(2)
        return scores

    def _finish(self) -> list[int]:
        """Notes the hypotheses that end with this step; returns the rows of the sentences that are not done."""
        step, length = self.steps[-1], len(self.steps)
        for number in self.searched:
            self.last_step[number] = length
        for row, beam in np.argwhere((step.words == END) & (step.scores > NEVER / 2)).tolist():
            self.finished[self.searched[row]].append((float(step.ranked[row, beam]), length, beam))
        best_ended = step.words[:, 0] == END
        return [
            row
            for row, number in enumerate(self.searched)
            if not (best_ended[row] and len(self.finished[number]) >= self.n_best)
        ]

    def _trace(self, number: int, score: float, last: int, beam: int) -> Hypothesis:
        words, attention = [], []
        for step in reversed(self.steps[:last]):
            row = step.row[number]
            words.append(int(step.words[row, beam]))
            if step.attention is not None:
                attention.append(step.attention[row, beam])
            beam = int(step.parents[row, beam])
        words.reverse()
        attention.reverse()
        length = len(words) - (words[-1] == END)
        return Hypothesis(words[:length], score, torch.stack(attention)[:length] if attention else None)
