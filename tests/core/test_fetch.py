"""Fetching data sets from a local HTTP server and from local copies."""

import errno
import functools
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from rnncore.data_command import command
from rnncore.dataset_description import DataFile, Dataset, Download, RawFile
from rnncore.dataset_preparation import SPLIT_FILES
from rnncore.errors import UserError
from rnncore.fetch import get
from rnncore.mirrors import download

TEXTS = {"toy.train": b"a b c\n" * 500, "toy.valid": b"b c\n", "toy.test": b"c a\n"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class Server:
    """Answers with what ``pages`` holds for a path; half of it for ``truncated``, nothing for a while for ``slow``."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}
        self.truncated: set[str] = set()
        self.slow: set[str] = set()
        self.asked: list[str] = []
        self.user_agents: set[str] = set()
        self.closing = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path
                server.asked.append(path)
                server.user_agents.add(self.headers["User-Agent"])
                if path in server.slow:
                    server.closing.wait(10)
                    return
                content = server.pages.get(path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if path in server.truncated else content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=functools.partial(server.http.serve_forever, poll_interval=0.02))
    thread.start()
    yield server
    server.closing.set()
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def toy(*sources: tuple[Download, ...], tokens: int = 2000) -> Dataset:
    return Dataset(
        name="toy",
        description="three small files",
        size_mb=1,
        files=tuple(DataFile(name=n, tokens=t) for n, t in zip(SPLIT_FILES, (tokens, 3, 3), strict=True)),
        types=4,
        raw=tuple(RawFile(names=(name, split)) for name, split in zip(TEXTS, SPLIT_FILES, strict=True)),
        sources=sources,
    )


def archive_source(*mirrors: str, content: bytes | None = None) -> tuple[Download, ...]:
    checksum = None if content is None else sha256(content)
    members = tuple(f"toy/{name}" for name in TEXTS)
    return (Download(filename="toy-v1.zip", mirrors=mirrors, checksum=checksum, members=members),)


def assert_installed(data_dir: Path, dataset: Dataset) -> None:
    directory = data_dir / dataset.name
    assert sorted(path.name for path in directory.iterdir()) == ["SHA256SUMS", *sorted(SPLIT_FILES)]
    for name, content in zip(SPLIT_FILES, TEXTS.values(), strict=True):
        assert (directory / name).read_bytes() == content
    assert [path.name for path in data_dir.iterdir()] == [dataset.name]  # and no leftover


def assert_nothing_left(data_dir: Path) -> None:
    assert not data_dir.exists() or list(data_dir.iterdir()) == []


def test_plain_files_are_downloaded_checked_and_installed(server: Server, tmp_path: Path) -> None:
    server.pages = {f"/{name}": content for name, content in TEXTS.items()}
    source = tuple(
        Download(filename=name, mirrors=(f"{server.address}/{name}",), checksum=sha256(content))
        for name, content in TEXTS.items()
    )
    assert get(toy(source), data_dir=tmp_path) == tmp_path / "toy"
    assert_installed(tmp_path, toy())
    assert not any("python" in agent.lower() for agent in server.user_agents)  # some hosts answer such with 403
    server.asked.clear()
    get(toy(source), data_dir=tmp_path)
    assert server.asked == []  # what is there and undamaged is not fetched again
    (tmp_path / "toy" / "valid.txt").write_text("x c\n")
    get(toy(source), data_dir=tmp_path)
    assert_installed(tmp_path, toy())


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_is_unpacked(server: Server, tmp_path: Path, pack: Callable[[Mapping[str, bytes]], bytes]) -> None:
    content = pack({"./toy/README": b"", **{f"./toy/{name}": text for name, text in TEXTS.items()}})
    server.pages["/toy.zip"] = content
    get(toy(archive_source(f"{server.address}/toy.zip", content=content)), data_dir=tmp_path)
    assert_installed(tmp_path, toy())


def test_an_md5_is_a_checksum_too(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = b"text"
    good = Download(filename="a", mirrors=(f"{server.address}/a",), checksum=f"md5:{hashlib.md5(b'text').hexdigest()}")
    assert download(good, tmp_path).read_bytes() == b"text"
    bad = Download(filename="b", mirrors=good.mirrors, checksum=f"md5:{hashlib.md5(b'test').hexdigest()}")
    with pytest.raises(UserError, match="wrong checksum"):
        download(bad, tmp_path)


def test_each_mirror_is_tried_in_turn(server: Server, tmp_path: Path) -> None:
    content = zipped({f"toy/{name}": text for name, text in TEXTS.items()})
    server.pages = {"/wrong": b"<html>parked domain</html>", "/cut": content, "/good": content, "/unused": content}
    server.truncated.add("/cut")
    server.slow.add("/slow")
    paths = ("/gone", "/wrong", "/cut", "/slow", "/good", "/unused")
    source = archive_source(*(server.address + path for path in paths), content=content)
    get(toy(source), data_dir=tmp_path, timeout=0.3)
    assert server.asked == ["/gone", "/wrong", "/cut", "/slow", "/good"]
    assert_installed(tmp_path, toy())


def test_the_last_message_tells_of_every_attempt_in_one_line(server: Server, tmp_path: Path) -> None:
    content = zipped({f"toy/{name}": text for name, text in TEXTS.items()})
    server.pages = {"/wrong": content[:-1] + b"x", "/cut": content}
    server.truncated.add("/cut")
    server.slow.add("/slow")
    urls = [server.address + path for path in ("/gone", "/wrong", "/cut", "/slow")]
    source = archive_source(*urls, "http://127.0.0.1:9/closed", content=content)
    with pytest.raises(UserError) as caught:
        get(toy(source), data_dir=tmp_path, timeout=0.3)
    message = caught.value.message
    reasons = ("HTTP status 404", "wrong checksum", "the transfer broke off", "no answer in 0.3 s")
    for url, reason in zip(urls, reasons, strict=True):
        assert f"{url} ({reason})" in message
    assert "cannot connect" in message
    assert "rnn-data get toy --from" in message
    assert "\n" not in message
    assert_nothing_left(tmp_path)


def test_a_truncated_file_without_a_known_sum_is_refused(server: Server, tmp_path: Path) -> None:
    server.pages["/a"] = b"0123456789"
    server.truncated.add("/a")
    with pytest.raises(UserError, match="the transfer broke off"):
        download(Download(filename="a", mirrors=(f"{server.address}/a",)), tmp_path)
    assert_nothing_left(tmp_path)


def test_the_second_source_replaces_one_with_the_wrong_content(server: Server, tmp_path: Path) -> None:
    server.pages = {f"/{name}": content for name, content in TEXTS.items()}
    server.pages["/toy.zip"] = zipped({f"toy/{name}": b"something else\n" for name in TEXTS})
    plain = tuple(Download(filename=name, mirrors=(f"{server.address}/{name}",)) for name in TEXTS)
    get(toy(archive_source(f"{server.address}/toy.zip"), plain), data_dir=tmp_path)
    assert_installed(tmp_path, toy())


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "toy/../../evil.txt", "C:\\evil.txt", "..\\evil.txt"])
def test_an_archive_with_a_path_that_escapes_is_refused(
    server: Server, tmp_path: Path, name: str, pack: Callable[[Mapping[str, bytes]], bytes]
) -> None:
    content = pack({f"toy/{raw}": text for raw, text in TEXTS.items()} | {name: b"gotcha"})
    server.pages["/toy.zip"] = content
    data_dir = tmp_path / "outer" / "data"
    with pytest.raises(UserError) as caught:
        get(toy(archive_source(f"{server.address}/toy.zip", content=content)), data_dir=data_dir)
    assert repr(name) in caught.value.message
    assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.rglob("*")] == ["outer", "data"]


@pytest.mark.parametrize("stage", ["download", "prepare"])
def test_an_interrupted_get_leaves_nothing_and_keeps_what_was_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    server.pages = {f"/{name}": content for name, content in TEXTS.items()}
    plain = tuple(Download(filename=name, mirrors=(f"{server.address}/{name}",)) for name in TEXTS)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    dataset = toy(plain)
    with monkeypatch.context() as patch:
        if stage == "download":
            patch.setattr("pooch.HTTPDownloader.__call__", interrupted)
        else:
            dataset = replace(dataset, prepare=interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(dataset, data_dir=tmp_path)
        assert_nothing_left(tmp_path)
    get(toy(plain), data_dir=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        get(replace(dataset, prepare=interrupted), data_dir=tmp_path, origin=tmp_path / "toy")
    assert_installed(tmp_path, toy())


def test_a_full_disk_is_one_line_and_no_reason_to_ask_another_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(_: object, url: str, *__: object, **___: object) -> None:
        asked.append(url)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", full)
    with pytest.raises(UserError, match=r"cannot install toy in .*No space left on device") as caught:
        get(toy(archive_source("http://127.0.0.1:9/a", "http://127.0.0.1:9/b")), data_dir=tmp_path)
    assert "\n" not in caught.value.message
    assert asked == ["http://127.0.0.1:9/a"]
    assert_nothing_left(tmp_path)


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot install toy in") as caught:
        get(toy(archive_source("http://127.0.0.1:9/toy.zip")), data_dir=tmp_path / "file")
    assert "\n" not in caught.value.message


def test_the_command_downloads(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNN_DATA", str(tmp_path))
    content = zipped({f"toy/{name}": text for name, text in TEXTS.items()})
    server.pages["/toy.zip"] = content
    good = toy(archive_source(f"{server.address}/toy.zip", content=content))
    dead = replace(toy(archive_source(f"{server.address}/dead")), name="dead")
    result = CliRunner().invoke(command((dead, good)), ["get", "dead", "toy"])
    assert result.exit_code == 2  # one data set could not be had, the other is installed all the same
    assert result.stdout == f"toy: {tmp_path / 'toy'}\n"
    assert result.stderr.startswith("Error: dead: cannot download toy-v1.zip: ")
    assert result.stderr.count("\n") == 1  # no progress bar where there is no terminal
    assert_installed(tmp_path, good)
