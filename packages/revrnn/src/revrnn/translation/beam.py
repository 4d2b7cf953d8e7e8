"""Beam search over many sentences at once.

As OpenNMT-py's, sentence by sentence the same: a sentence is done when its best beam ends and ``n_best`` hypotheses
have; finished ones are ranked by their score with the penalties of Wu et al. 2016 (arXiv 1609.08144, section 7), while
the search itself goes by probability alone.

Shapes: N sentences still searched, K beams, V vocabulary, S source words.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from revrnn.translation.model import BEGIN, END, PADDING

#: The score of what must not be chosen.
NEVER = -1e20
#: Columns of a block in `largest`.
BLOCK = 64


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
    """What one step left, on the host: of each sentence searched then, by beam. ``attention [N, K, S]``."""

    words: list[list[int]]
    parents: list[list[int]]
    scores: list[list[float]]
    ranked: list[list[float]]
    row: dict[int, int]
    attention: Tensor | None


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row ``[N, M]`` and where they are, as ``topk``, many times as fast for long rows.

    They lie in the ``count`` blocks of columns with the largest maxima, or after the last whole block.
    """
    whole = values.shape[1] // BLOCK * BLOCK
    if whole <= count * BLOCK:
        return values.topk(count, dim=1)
    blocks = values[:, :whole].reshape(len(values), -1, BLOCK)
    chosen = blocks.amax(2).topk(count, dim=1).indices
    inside = torch.arange(BLOCK, device=values.device)
    columns = (chosen[:, :, None] * BLOCK + inside).flatten(1)
    rest = torch.arange(whole, values.shape[1], device=values.device).expand(len(values), -1)
    columns = torch.cat([columns, rest], dim=1)
    found, at = values.gather(1, columns).topk(count, dim=1)
    return found, columns.gather(1, at)


def normalisers(logits: Tensor) -> Tensor:
    """log sum exp of each row ``[..., V]``. Spoils the logits: there is no room for a second table of that size."""
    top = logits.amax(dim=-1, keepdim=True)
    return logits.sub_(top).exp_().sum(dim=-1).log_() + top.squeeze(-1)


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
    ) -> None:
        """Begins.

        Args:
            sentences: N.
            beams: K.
            device: Where the search goes on.
            n_best: How many hypotheses of a sentence are wanted, at most K.
            min_length: No sentence ends while BEGIN and its words are fewer.
            penalties: None ranks by probability.
        """
        self.beams, self.n_best, self.min_length, self.penalties = beams, n_best, min_length, penalties
        self.searched = list(range(sentences))
        self.words = torch.full((sentences, beams), PADDING, device=device)
        self.words[:, 0] = BEGIN
        self.scores = torch.zeros(sentences, beams, device=device)
        self.coverage: Tensor | None = None
        self.steps: list[_Step] = []
        self.finished: list[list[tuple[float, int, int]]] = [[] for _ in range(sentences)]
        self.last_step = [0] * sentences

    def advance(self, logits: Tensor, attention: Tensor | None) -> Tensor:
        """Chooses the next words.

        Args:
            logits: Of each word after each beam, ``[N, K, V]``, normalised or not; spoilt.
            attention: ``[N, K, S]``, or None.

        Returns:
            Which of the N K beams each of the beams that go on (fewer, when sentences are done) comes from.
        """
        parents = self._choose(logits)
        rows = torch.arange(len(parents), device=parents.device)[:, None]
        if attention is not None:
            attention = attention[rows, parents]
            self.coverage = attention if self.coverage is None else self.coverage[rows, parents] + attention
        self._note(parents, attention)
        going = [row for row, done in enumerate(self._finish()) if not done]
        origin = rows * self.beams + parents
        if len(going) < len(self.searched):
            index = torch.tensor(going, dtype=torch.int64, device=parents.device)
            self.searched = [self.searched[row] for row in going]
            self.words, self.scores, origin = self.words[index], self.scores[index], origin[index]
            self.coverage = None if self.coverage is None else self.coverage[index]
        return origin.flatten()

    def hypotheses(self) -> list[list[Hypothesis]]:
        """The best of each sentence, at least ``n_best`` (as far as there are beams), best first."""
        result = []
        for number, finished in enumerate(self.finished):
            last = self.last_step[number]
            step = self.steps[last - 1]
            row, spare = step.row[number], range(self.beams)
            missing = max(0, self.n_best - len(finished))
            ended = {beam for _, at, beam in finished if at == last}
            unfinished = [(step.ranked[row][beam], last, beam) for beam in spare if beam not in ended][:missing]
            ranked = sorted([*finished, *unfinished], key=lambda each: -each[0])
            result.append([self._trace(number, *each) for each in ranked])
        return result

    def dump(self, number: int) -> dict[str, list[list[float]] | list[list[int]]]:
        """The beams of a sentence, step by step."""
        steps = self.steps[: self.last_step[number]]
        return {
            "predicted_ids": [step.words[step.row[number]] for step in steps],
            "beam_parent_ids": [step.parents[step.row[number]] for step in steps],
            "scores": [step.scores[step.row[number]] for step in steps],
        }

    def _choose(self, logits: Tensor) -> Tensor:
        """Sets the new words and scores; returns the beams that they come from, ``[N, K]``."""
        sentences, beams, vocabulary = logits.shape
        end, few = logits[:, :, END].clone(), min(self.beams, vocabulary)
        if len(self.steps) + 1 < self.min_length:
            logits[:, :, END] = NEVER
        values, words = (part.view(sentences, beams, few) for part in largest(logits.flatten(0, 1), few))
        logits[:, :, END] = end
        totals = values - normalisers(logits)[:, :, None]
        if self.steps:
            totals = totals + self.scores.masked_fill(self.words == END, NEVER)[:, :, None]
        else:
            totals[:, 1:] = NEVER  # all beams are the same yet
        self.scores, best = totals.flatten(1).topk(self.beams, dim=1)
        self.words = words.flatten(1).gather(1, best)
        parents: Tensor = best // few
        return parents

    def _note(self, parents: Tensor, attention: Tensor | None) -> None:
        row = {number: row for row, number in enumerate(self.searched)}
        scores = self.scores.tolist()
        ranked = scores if self.penalties is None else self._penalised(self.penalties).tolist()
        self.steps.append(_Step(self.words.tolist(), parents.tolist(), scores, ranked, row, attention))

    def _penalised(self, penalties: Penalties) -> Tensor:
        length = len(self.steps) + 2  # BEGIN and the words, this step's with them
        scores: Tensor = self.scores / ((5 + length) / 6) ** penalties.alpha
        if penalties.beta and self.coverage is not None:
            scores = scores + penalties.beta * self.coverage.clamp(max=1).log().sum(2)
        return scores

    def _finish(self) -> list[bool]:
        """Notes the hypotheses that end with this step; returns which sentences are done."""
        step, done = self.steps[-1], []
        for row, number in enumerate(self.searched):
            self.last_step[number] = len(self.steps)
            for beam, word in enumerate(step.words[row]):
                if word == END and step.scores[row][beam] > NEVER / 2:
                    self.finished[number].append((step.ranked[row][beam], len(self.steps), beam))
            best_ended = step.words[row][0] == END
            done.append(best_ended and len(self.finished[number]) >= self.n_best)
        return done

    def _trace(self, number: int, score: float, last: int, beam: int) -> Hypothesis:
        words, attention = [], []
        for step in reversed(self.steps[:last]):
            row = step.row[number]
            words.append(step.words[row][beam])
            if step.attention is not None:
                attention.append(step.attention[row, beam])
            beam = step.parents[row][beam]
        words.reverse()
        attention.reverse()
        length = len(words) - (words[-1] == END)
        return Hypothesis(words[:length], score, torch.stack(attention)[:length] if attention else None)
