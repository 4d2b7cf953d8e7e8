"""A parallel corpus made by rule: English number words and the German ones, with exact references.

"two hundred and thirty four thousand five" is "zwei hundert vier und dreißig tausend fünf": units and tens change
places, "one" is eins or ein, and a thousand alone has no article, so that words cannot be translated one by one.
"""

import random
from pathlib import Path

LARGEST = 999_999
COUNTS = {"train": 12_000, "val": 400, "test": 400}

_ENGLISH = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_GERMAN = [
    "null",
    "ein",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
]
_GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def english(number: int) -> str:
    """The words of a number from 0 to `LARGEST`, as the British say them."""
    thousands, rest = divmod(number, 1000)
    words = [*_english_below_thousand(thousands), "thousand"] if thousands else []
    if rest or not thousands:
        link = ["and"] if thousands and 0 < rest < 100 else []
        words += [*link, *_english_below_thousand(rest)]
    return " ".join(words)


def german(number: int) -> str:
    """The same in German, each part of the compound a word."""
    thousands, rest = divmod(number, 1000)
    words = [*(_german_below_thousand(thousands) if thousands > 1 else []), "tausend"] if thousands else []
    if rest or not thousands:
        words += _german_below_thousand(rest)
    if words[-1] == "ein":
        words[-1] = "eins"
    return " ".join(words)


def write(folder: Path, seed: int = 1) -> None:
    """Writes ``train``, ``val`` and ``test`` as ``.en`` and ``.de`` into a folder: distinct numbers, a line each."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = random.Random(seed).sample(range(LARGEST + 1), sum(COUNTS.values()))
    for split, count in COUNTS.items():
        chosen, numbers = numbers[:count], numbers[count:]
        for language, spell in (("en", english), ("de", german)):
            text = "".join(spell(number) + "\n" for number in chosen)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8", newline="\n")


def _english_below_thousand(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [_ENGLISH[hundreds], "hundred"] if hundreds else []
    if rest or not hundreds:
        words += ["and"] if hundreds else []
        tens, units = divmod(rest, 10)
        words += [_ENGLISH[rest]] if rest < 20 else [_ENGLISH_TENS[tens - 2], *([_ENGLISH[units]] if units else [])]
    return words


def _german_below_thousand(number: int) -> list[str]:
    hundreds, rest = divmod(number, 100)
    words = [*([_GERMAN[hundreds]] if hundreds > 1 else []), "hundert"] if hundreds else []
    if rest or not hundreds:
        tens, units = divmod(rest, 10)
        words += [_GERMAN[rest]] if rest < 20 else [*([_GERMAN[units], "und"] if units else []), _GERMAN_TENS[tens - 2]]
    return words
