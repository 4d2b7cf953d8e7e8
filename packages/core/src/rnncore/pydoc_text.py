"""The English text that every CPython brings along, and its sentences.

Documents are the topics of ``pydoc_data`` and the docstrings of the standard library's modules. Those of modules in
Python are read from the source files, so that neither the platform nor ``python -OO`` shows. A few modules in C, which
read the same on every platform and repeat no module in Python, are asked for theirs.
"""

import ast
import importlib
import inspect
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from rnncore.errors import UserError

# What the system's Python of some distributions lacks or changes; without it they all give the same text.
_LEFT_OUT = frozenset(
    ("tkinter", "turtle", "turtledemo", "idlelib", "lib2to3", "distutils", "ensurepip", "venv", "site", "sysconfig")
)
_NO_PROSE = frozenset(("test", "tests", "idle_test", "macholib", "pydoc_data"))
_WRITTEN_IN_C = (
    *("_codecs", "_collections", "_csv", "_functools", "_json", "_random", "_struct", "array", "builtins", "cmath"),
    *("gc", "itertools", "math", "unicodedata"),
)

_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])")
_PROMPT = re.compile(r"\s*(>>>|\.\.\.)( |$)")
_RULE = re.compile(r"([^\w\s])\1{2,}")
_TOKEN = re.compile(
    r"(?P<number>0x[0-9a-f]+|\d+(?:[.,]\d+)*)"
    r"|(?P<word>e\.g\.|i\.e\.|'s\b|[a-z_][a-z0-9_]*(?:-[a-z]+)*(?:'(?!s\b)[a-z]+)?)"
    r"|(?P<mark>[^\w\s])"
)
_FEWEST_WORDS = 2


def documents() -> Iterator[tuple[str, str]]:
    """Yield (name, text) of every document: ``topics.NAME``, then modules in Python, then modules in C.

    Raises:
        UserError: this Python has no source files of its standard library.
    """
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield f"topics.{name}", topics[name]
    library = Path(sysconfig.get_path("stdlib"))
    modules = dict(_modules(library))
    if not modules:
        raise UserError(f"{library} holds no source files; use a Python that brings its standard library as source")
    for name in sorted(modules):
        yield name, "\n\n".join(_docstrings(modules[name]))
    for name in _WRITTEN_IN_C:
        yield name, "\n\n".join(_docstrings_in_c(name))


def sentences(text: str) -> Iterator[list[str]]:
    """Yield the sentences of a text as lower-case tokens: words, punctuation marks one by one, ``N`` for numbers.

    Paragraphs are separated by empty lines. In a paragraph with an interactive example each line is a sentence, without
    its prompt. Rules of repeated marks, and pieces of fewer than two words, are dropped.
    """
    for paragraph in _PARAGRAPH_END.split(text):
        lines = paragraph.splitlines()
        example = any(_PROMPT.match(line) for line in lines)
        prose = " ".join(line.strip() for line in lines)
        for sentence in (_PROMPT.sub("", line, count=1) for line in lines) if example else _SENTENCE_END.split(prose):
            found = list(_TOKEN.finditer(_RULE.sub(" ", sentence).lower()))
            if sum(match.lastgroup == "word" for match in found) >= _FEWEST_WORDS:
                yield ["N" if match.lastgroup == "number" else match[0] for match in found]


def _modules(library: Path) -> Iterator[tuple[str, Path]]:
    """Names and source files of the modules whose text is taken."""
    for package in sorted(sys.stdlib_module_names - _LEFT_OUT):
        for path in (library / f"{package}.py", *(library / package).rglob("*.py")):
            parts = path.relative_to(library).with_suffix("").parts
            if path.is_file() and not _NO_PROSE.intersection(parts):
                yield ".".join(parts).removesuffix(".__init__"), path


def _docstrings(source: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions, in the order of the source."""
    with warnings.catch_warnings():
        # An old escape in a string of the library is not this program's fault.
        warnings.simplefilter("ignore")
        tree = ast.parse(source.read_bytes(), str(source))
    documented = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for node in sorted(documented, key=lambda node: getattr(node, "lineno", 0)):
        yield ast.get_docstring(node) or ""


def _docstrings_in_c(name: str) -> list[str]:
    """The docstrings of a module, its functions, its classes and their methods and attributes, each text once."""
    module = importlib.import_module(name)
    members = [member for _, member in sorted(vars(module).items())]
    # Interactive shells put functions of their own into `builtins`.
    classes = [c for c in members if inspect.isclass(c) and c.__module__.split(".")[0] in sys.stdlib_module_names]
    described: list[object] = [module, *filter(inspect.isbuiltin, members)]
    for owner in classes:
        attributes = [attribute for _, attribute in sorted(vars(owner).items())]
        described += [owner, *(a for a in attributes if inspect.isroutine(a) or inspect.isdatadescriptor(a))]
    texts = [one.__doc__ for one in described]
    return list(dict.fromkeys(inspect.cleandoc(text) for text in texts if isinstance(text, str)))
