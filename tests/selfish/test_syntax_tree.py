"""The tree of syntactic distances."""

import random
from pathlib import Path

import pytest
from rnncore.errors import UserError
from selfish.syntax_tree import Tree, bracketed, draw, tree_of


def leaves(tree: Tree) -> list[str]:
    return [tree] if isinstance(tree, str) else [*leaves(tree[0]), *leaves(tree[1])]


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([9, 1, 2, 3], "(((a b) c) d)"),
        ([9, 3, 2, 1], "(a (b (c d)))"),
        ([0, 1, 2, 1], "((a b) (c d))"),
        ([0, 1, 1, 1], "(a (b (c d)))"),
    ],
)
def test_the_largest_distance_splits_first(distances: list[float], expected: str) -> None:
    assert bracketed(tree_of("abcd", distances)) == expected


def test_every_split_is_at_the_largest_distance_of_its_words() -> None:
    draws = random.Random(1)
    for _ in range(50):
        words = [f"w{number}" for number in range(draws.randrange(1, 12))]
        distances = [draws.random() for _ in words]

        def check(tree: Tree, words: list[str] = words, distances: list[float] = distances) -> None:
            if isinstance(tree, str):
                return
            inside = [distances[words.index(word)] for word in leaves(tree)[1:]]
            assert distances[words.index(leaves(tree[1])[0])] == max(inside)
            check(tree[0])
            check(tree[1])

        tree = tree_of(words, distances)
        assert leaves(tree) == words
        check(tree)


def test_a_distance_for_each_word() -> None:
    for words, distances in (([], []), (["a"], [])):
        with pytest.raises(ValueError, match="words need as many distances"):
            tree_of(words, distances)
    assert bracketed(tree_of(["a"], [0.5])) == "a"


def test_the_picture(tmp_path: Path) -> None:
    draw(["the", "company", "grew"], [0.1, 0.2, 0.3], tmp_path / "tree.png")
    assert (tmp_path / "tree.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"give a name that ends in \.png"):
        draw(["a", "b"], [0.1, 0.2], tmp_path / "tree.txt")
    with pytest.raises(UserError, match="cannot write"):
        draw(["a", "b"], [0.1, 0.2], tmp_path / "nowhere" / "tree.png")
