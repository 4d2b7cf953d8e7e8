"""How long a corpus of the size of WikiText-103 takes to encode, and to open again.

Makes a text of 540 MB by repeating real text with noise (some words get a number, so that there are a few hundred
thousand types), encodes it in one process, opens it in another, and prints one line of JSON:

    seconds, tokens_per_s   first start, the import of torch left out
    peak_rss_mb             of the first process, torch included
    second_start_ms         opening the cached ids, checks included
    second_peak_rss_mb      of the second process
    mb, tokens, types       the text
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
from rnncore import pydoc_corpus

_START = """
import json, resource, sys, time
from pathlib import Path
from rnncore.corpus import Corpus
begin = time.perf_counter()
corpus = Corpus.load(Path(sys.argv[1]), order=sys.argv[2], cache_dir=Path(sys.argv[3]))
seconds = time.perf_counter() - begin
tokens = len(corpus.train) + len(corpus.valid) + len(corpus.test)
unit = 1e6 if sys.platform == "darwin" else 1e3
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
print(json.dumps({"seconds": seconds, "tokens": tokens, "types": len(corpus.vocabulary), "peak_rss_mb": peak}))
"""


@click.command()
@click.option(
    "--text", type=click.Path(path_type=Path), help="Folder of train.txt, valid.txt, test.txt [pydoc corpus]."
)
@click.option("--mb", default=540, show_default=True, help="Size of the training text in MB (10^6 bytes).")
@click.option("--noise", default=0.005, show_default=True, help="Share of the words that get a number.")
@click.option("--numbers", default=25_000, show_default=True, help="How many different numbers there are.")
@click.option("--order", type=click.Choice(["appearance", "frequency"]), default="appearance", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where the temporary folder is made.")
@click.option("--quick", is_flag=True, help="A training text of 5 MB.")
def main(
    text: Path | None, mb: int, noise: float, numbers: int, order: str, seed: int, folder: Path | None, quick: bool
) -> None:
    """Measure the first and the second start with a large corpus."""
    text, mb = text or pydoc_corpus.path(), 5 if quick else mb
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        corpus, cache = Path(temporary, "text"), Path(temporary, "cache")
        size = make_text(text, corpus, mb, noise, numbers, np.random.default_rng(seed))
        first, second = (start(corpus, order, cache) for _ in range(2))
    result = {
        "seconds": round(first["seconds"], 2),
        "tokens_per_s": round(first["tokens"] / first["seconds"]),
        "peak_rss_mb": round(first["peak_rss_mb"]),
        "second_start_ms": round(second["seconds"] * 1e3),
        "second_peak_rss_mb": round(second["peak_rss_mb"]),
        "mb": round(size / 1e6),
        "tokens": int(first["tokens"]),
        "types": int(first["types"]),
        "order": order,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    click.echo(json.dumps(result))


def make_text(source: Path, target: Path, mb: int, noise: float, numbers: int, generator: np.random.Generator) -> int:
    """Write the three files of a noisy corpus; return the bytes of the training text."""
    target.mkdir(parents=True)
    for name in ("valid.txt", "test.txt"):
        (target / name).write_bytes((source / name).read_bytes())
    lines = [line.split() for line in (source / "train.txt").read_bytes().splitlines()]
    places = [(i, j) for i, line in enumerate(lines) for j in range(len(line))]
    size = 0
    with (target / "train.txt").open("wb") as file:
        while size < mb * 1e6:
            noisy = list(map(list, lines))
            for place in generator.integers(0, len(places), int(noise * len(places))).tolist():
                i, j = places[place]
                noisy[i][j] = lines[i][j] + b"%d" % generator.integers(numbers)
            size += file.write(b"".join(b" " + b" ".join(line) + b" \n" for line in noisy))
    return size


def start(corpus: Path, order: str, cache: Path) -> dict[str, float]:
    """Load the corpus in a process of its own."""
    command = [sys.executable, "-c", _START, str(corpus), order, str(cache)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    numbers: dict[str, float] = json.loads(done.stdout)
    return numbers


if __name__ == "__main__":
    main()
