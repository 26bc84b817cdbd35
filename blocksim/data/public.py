"""Public data sets: where they are, and how they are fetched.

Owns the table of addresses and checksums, and a downloader that goes on where a broken download stopped. pooch, extra
`download`, checks the sum and gives the file its name only then.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocksim.errors import ArgumentError, FileError
from blocksim.files import check_folder
from blocksim.libraries import library
from blocksim.validation import choice

CHUNK = 2**20
TIMEOUT_S = (15, 60)  # to connect, and between two pieces
ATTEMPTS = 5  # in a row that bring nothing
PAUSE_S = 0.5  # before another, times how many brought nothing
ENVIRONMENT = "BLOCKSIM_DATA_URL"

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class PublicData:
    """A file that can be fetched.

    Attributes
    ----------
    name : str
        What `download` calls it.
    file : str
        Name on disk, and on a mirror.
    url : str
        Address.
    md5 : str
        Checksum of the file.
    unpacked : str
        Name of what is in it, once unpacked: a file or a folder.
    about : str
        What it is, with its source.
    """

    name: str
    file: str
    url: str
    md5: str
    unpacked: str
    about: str


_MENDELEY = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files"
_ZENKE = "https://zenkelab.org/datasets"
_NMNIST = "N-MNIST, {}: handwritten digits before a moving event camera (Orchard et al. 2015)"
_SHD = "Spiking Heidelberg Digits, {}: spoken digits in German and English (Cramer et al. 2022)"

PUBLIC = {
    item.name: item
    for item in (
        PublicData(
            "nmnist-train", "nmnist_train.zip", f"{_MENDELEY}/39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",
            "20959b8e626244a1b502305a9e6e2031", "nmnist_train", _NMNIST.format("60,000 training samples"),
        ),
        PublicData(
            "nmnist-test", "nmnist_test.zip", f"{_MENDELEY}/05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",
            "69ca8762b2fe404d9b9bad1103e97832", "nmnist_test", _NMNIST.format("10,000 test samples"),
        ),
        PublicData(
            "shd-train", "shd_train.h5.zip", f"{_ZENKE}/shd_train.h5.zip",
            "f3252aeb598ac776c1b526422d90eecb", "shd_train.h5", _SHD.format("8,156 training samples"),
        ),
        PublicData(
            "shd-test", "shd_test.h5.zip", f"{_ZENKE}/shd_test.h5.zip",
            "1503a5064faa34311c398fb0a1ed0a6f", "shd_test.h5", _SHD.format("2,264 test samples"),
        ),
    )
}  # fmt: skip


def download(
    name: str,
    folder: str | Path = ".",
    *,
    unpack: bool = False,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Fetch a public data set, unless it is there already.

    An interrupted download is kept as a hidden file that ends in `.part`, and the next call goes on from there where
    the server can; what is in a file under the final name has the right checksum.

    Parameters
    ----------
    name : str
        "nmnist-train", "nmnist-test", "shd-train" or "shd-test".
    folder : str or Path
        Where to put it; made if its parent exists.
    unpack : bool
        Unpack the archive too, beside it. HDF5 files must be; an archive of N-MNIST can be opened as it is.
    base_url : str or None
        A mirror that has the files under their names on disk: base_url/shd_train.h5.zip. None: the environment
        variable BLOCKSIM_DATA_URL, or where that is not set, the publisher's address.
    progress : callable or None
        Called with the bytes that are there and the bytes in all, None where the server does not say.

    Returns
    -------
    Path
        The file, or what was unpacked.

    Raises
    ------
    ArgumentError
        Another name.
    FileError
        The server cannot be reached, or has no such file; the download stopped; the checksum is another; or the
        folder cannot be written to.
    MissingLibraryError
        pooch is not installed.
    """
    item = PUBLIC[choice("name", name, PUBLIC)]
    folder = Path(folder)
    if folder.parent.is_dir() and not folder.exists():
        folder.mkdir()
    check_folder(folder)
    target = folder / item.unpacked
    if unpack and target.exists():
        return target
    archive = fetch(_url(item, base_url), item.md5, folder / item.file, progress)
    return _unpacked(archive, target) if unpack else archive


def fetch(url: str, md5: str, path: Path, progress: Progress | None = None) -> Path:
    """The file at `url` as `path`, if its checksum is `md5`; nothing is fetched where it is there already."""
    pooch = library("pooch", "download", "download")
    with _quiet(pooch.get_logger()):
        try:
            pooch.retrieve(
                url,
                known_hash=f"md5:{md5}",
                fname=path.name,
                path=path.parent,
                downloader=lambda url, output, _: _resume(url, path, Path(output), progress),
            )
        except FileError:
            raise
        except ValueError as error:
            # pooch has removed what was fetched
            other = re.search(r"got ['\"]?([0-9a-f]{32})", str(error))
            raise FileError(
                f"{url}: expected a file of MD5 sum {md5}; found one of {other[1] if other else 'another'}, which was "
                "removed (download it again; if the sum is the same again, the file has been changed where it is "
                "published)"
            ) from error
        except OSError as error:
            raise FileError(f"{path}: expected to be able to write it; found: {error.strerror or error}") from error
    return path


def part_of(path: Path) -> Path:
    """Where an unfinished download of `path` is kept."""
    return path.with_name(f".{path.name}.part")


def _url(item: PublicData, base_url: str | None) -> str:
    base = os.environ.get(ENVIRONMENT) if base_url is None else base_url
    if not base:
        return item.url
    if not re.match(r"https?://", base):
        raise ArgumentError(f"base_url: expected an address that begins with http:// or https://; found {base!r}")
    return f"{base.rstrip('/')}/{item.file}"


def _resume(url: str, path: Path, output: Path, progress: Progress | None) -> None:
    """Fetch `url` to the part file of `path`, from where that ends, in as many goes as it takes; call it `output`."""
    import requests

    part = part_of(path)
    idle = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _go_on(url, part, before, progress):
                os.replace(part, output)
                return
            why = "the connection ended early"
        except requests.RequestException as error:
            why = str(error)
        now = part.stat().st_size if part.exists() else 0
        idle = 0 if now > before else idle + 1
        if idle == ATTEMPTS:
            kept = f"; {now} bytes are kept, and the same command goes on from there" if now else ""
            raise FileError(f"{url}: expected to be able to fetch it; found: {why}{kept}")
        time.sleep(idle * PAUSE_S)


def _go_on(url: str, part: Path, start: int, progress: Progress | None) -> bool:
    """One request for what follows `start` bytes; whether the file is complete."""
    import requests

    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable and start:
            complete = bool(answer.headers.get("Content-Range") == f"bytes */{start}")
            if not complete:
                part.unlink()
            return complete
        if 400 <= answer.status_code < 500:
            raise FileError(f"{url}: expected a file; found HTTP status {answer.status_code} ({answer.reason})")
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content or not _begins_at(answer, start):
            # the server sends all of it
            start = 0
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        there = start
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for piece in answer.iter_content(CHUNK):
                file.write(piece)
                there += len(piece)
                if progress is not None:
                    progress(there, total)
    return total is None or there == total


def _begins_at(answer: Any, start: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _unpacked(archive: Path, target: Path) -> Path:
    """Unpack a zip archive of one file or folder, whole or not at all."""
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=archive.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [name for name in opened.namelist() if not name.startswith("__MACOSX/")]
            opened.extractall(work, names)
        tops = list(work.iterdir())
        os.replace(tops[0] if len(tops) == 1 else work, target)
    except (OSError, zipfile.BadZipFile) as error:
        raise FileError(f"{archive}: expected to be able to unpack it to {target}; found: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Without pooch's own messages of what it fetches: progress is shown by the caller."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
