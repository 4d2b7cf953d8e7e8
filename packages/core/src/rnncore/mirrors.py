"""Downloads one file from the first of several addresses that gives it right."""

import errno
import importlib.util
import logging
from pathlib import Path

from tqdm import tqdm

from rnncore.dataset_description import Download
from rnncore.errors import UserError

_log = logging.getLogger(__name__)

# Some hosts turn away requests that name a Python library.
_HEADERS = {"User-Agent": "Mozilla/5.0 (compatible; rnncore)"}
_LOCAL_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


def download(item: Download, folder: Path, *, timeout: float = 30.0) -> Path:
    """Fetch a file into a folder, with a progress bar on a terminal.

    Args:
        item: the file, its mirrors and its checksum.
        folder: where it is written, under ``item.filename``.
        timeout: seconds without an answer after which the next mirror is tried.

    Raises:
        UserError: no mirror gave the file (the line says what went wrong with each), or pooch is not installed.
        OSError: the file cannot be written.
    """
    if importlib.util.find_spec("pooch") is None:  # who trains on a directory of their own need not have it
        raise UserError("downloads need the package pooch: install it, or bring the data with --from")
    problems = []
    for url in item.mirrors:
        try:
            return _retrieve(url, item, folder, timeout)
        except (OSError, ValueError) as error:  # these are what pooch and requests raise
            if isinstance(error, OSError) and error.errno in _LOCAL_TROUBLE:
                raise
            problems.append(f"{url} ({_reason(error, timeout)})")
            _log.info("no %s from %s: %s", item.filename, url, _reason(error, timeout))
    raise UserError(f"cannot download {item.filename}: {', '.join(problems)}")


def _retrieve(url: str, item: Download, folder: Path, timeout: float) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # the bar says it all
    # pooch asks for the truth value of the bar, which is an error while it has no total; it sets the real one itself.
    with tqdm(desc=item.filename, total=1, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        fetch = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, headers=_HEADERS, timeout=timeout)
        path = Path(pooch.retrieve(url, item.checksum, fname=item.filename, path=folder, downloader=fetch))
        announced = int(bar.total or 0)
    if path.stat().st_size < announced:  # urllib3 before version 2 does not notice
        path.unlink()
        raise OSError("the transfer broke off")
    return path


def _reason(error: Exception, timeout: float) -> str:
    """In a few words, why a download failed."""
    text = str(error)
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if "timed out" in text:
        return f"no answer in {timeout:g} s"
    if "IncompleteRead" in text or "broke off" in text:
        return "the transfer broke off"
    if isinstance(error, ValueError) and "hash" in text:
        return "wrong checksum"
    return f"cannot connect, {type(error).__name__}"
