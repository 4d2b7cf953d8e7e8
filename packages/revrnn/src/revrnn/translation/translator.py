"""Translating sentences with a trained model.

Shapes: N sentences, K beams, S source words.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from revrnn.translation.beam import BeamSearch, Hypothesis, Penalties
from revrnn.translation.encoded import ids, padded
from revrnn.translation.fields import sorted_batches
from revrnn.translation.likeliest import likeliest
from revrnn.translation.model import UNKNOWN, TranslationModel


class Search(NamedTuple):
    """How translations are searched: ``max_length`` words at most; the rest as of `BeamSearch`."""

    beam_size: int = 5
    n_best: int = 1
    min_length: int = 0
    max_length: int = 100
    penalties: Penalties | None = None


class Translation(NamedTuple):
    """The hypotheses of a sentence, best first, their words, and its beams when they are to be dumped."""

    hypotheses: list[Hypothesis]
    words: list[list[str]]
    beams: dict[str, Any] | None = None


class Translator:
    """A model with its vocabularies."""

    def __init__(self, model: TranslationModel, vocabularies: tuple[list[str], list[str]]) -> None:
        """``vocabularies``: (source, target), in order of ids."""
        self.model, (self.source, self.target) = model, vocabularies

    def translate(
        self,
        sentences: Sequence[list[str]],
        search: Search,
        *,
        batch_size: int = 30,
        replace_unknown: bool = False,
        keep_beams: bool = False,
    ) -> list[Translation]:
        """Translates sentences, in their order, ``batch_size`` at a time; an empty one has one empty translation.

        Args:
            sentences: Tokens of each.
            search: How.
            batch_size: N.
            replace_unknown: Put the source word that got most attention in the place of an unknown word.
            keep_beams: Give the beams with each translation.
        """
        empty = Translation([Hypothesis([], 0.0, None)] * search.n_best, [[] for _ in range(search.n_best)])
        result = [empty] * len(sentences)
        there = [number for number, words in enumerate(sentences) if words]
        lengths = [len(sentences[number]) for number in there]
        for batch in sorted_batches(lengths, batch_size):
            numbers = [there[k] for k in batch]
            found = self._search([sentences[number] for number in numbers], search)
            for row, (number, hypotheses) in enumerate(zip(numbers, found.hypotheses(), strict=True)):
                words = [self._words(each, sentences[number], replace_unknown) for each in hypotheses]
                result[number] = Translation(hypotheses, words, found.dump(row) if keep_beams else None)
        return result

    def best(self, sentences: Sequence[list[str]], search: Search, batch_size: int = 30) -> Iterator[str]:
        """The best translation of each sentence as text."""
        for translation in self.translate(sentences, search, batch_size=batch_size):
            yield " ".join(translation.words[0])

    @torch.no_grad()
    def _search(self, sentences: Sequence[list[str]], search: Search) -> BeamSearch:
        self.model.eval()
        weight, bias, beams = self.model.generator_weight, self.model.generator_bias, search.beam_size
        source, lengths = (part.to(bias.device) for part in padded(ids(sentences, self.source)))
        state, memory = self.model.encode(source, lengths)
        state = tuple(part.repeat_interleave(beams, dim=1) for part in state)
        run = BeamSearch(
            len(sentences),
            beams,
            device=bias.device,
            n_best=search.n_best,
            min_length=search.min_length,
            penalties=search.penalties,
            padding=None if memory is None else memory.padding,
        )
        while run.searched and len(run.steps) < search.max_length:
            features, attention, state = self.model.decode(run.words.view(1, -1), state, memory)
            scores, words = likeliest(features[0], weight, bias, min(beams, len(bias)), run.barred)
            shape = (len(run.searched), beams, -1)
            attention = None if attention is None else attention.view(shape)
            origin, going = run.advance(scores.view(shape), words.view(shape), attention)
            state = tuple(part.index_select(1, origin) for part in state)
            if memory is not None and going is not None:
                memory = memory.take(going)
        return run

    def _words(self, hypothesis: Hypothesis, source: list[str], replace_unknown: bool) -> list[str]:
        words = [self.target[word] for word in hypothesis.words]
        if replace_unknown and hypothesis.attention is not None:
            looked_at: Tensor = hypothesis.attention[:, : len(source)].argmax(1)
            words = [
                source[at] if word == UNKNOWN else text
                for word, text, at in zip(hypothesis.words, words, looked_at.tolist(), strict=True)
            ]
        return words
