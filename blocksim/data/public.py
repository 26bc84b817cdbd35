"""Public data sets: their addresses, and their download.

Owns the table of addresses and checksums, and a downloader that resumes a broken download. A file is
given its name when pooch, extra `download`, has found its sum right.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from blocksim._atomic_io import locked, make_folder, named, put_in_place, temporary
from blocksim._libraries import library
from blocksim._npy import DAMAGED, one_line, opened
from blocksim._validation import choice, flag, instance
from blocksim.errors import ArgumentError, FileError

CHUNK = 2**20  # bytes at most that are asked for at a time
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
        Unpack the archive too, into the same folder. HDF5 files must be; an archive of N-MNIST can be opened as it is.
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
        Another name, a folder that is no path, or an address that is not one of http or https.
    FileError
        The server cannot be reached, or has no such file; the download stopped; the checksum is another; another
        process is downloading it; or the folder cannot be written to.
    MissingLibraryError
        pooch is not installed.
    """
    item = PUBLIC[choice("name", name, PUBLIC)]
    flag("unpack", unpack)
    folder = make_folder(named(folder))
    target = folder / item.unpacked
    if unpack and target.exists():
        return target
    archive = fetch(_url(item, base_url), item.md5, folder / item.file, progress)
    return _unpacked(archive, target) if unpack else archive


def fetch(url: str, md5: str, path: Path, progress: Progress | None = None) -> Path:
    """The file at `url` as `path`, if its checksum is `md5`; nothing is fetched where it is there already."""
    pooch = library("pooch", "download", "download")
    if _is_it(pooch, path, md5):
        return path
    with locked(path.with_name(f".{path.name}.lock"), f"no other download of {path.name}"):
        if _is_it(pooch, path, md5):  # another process has fetched it
            return path
        part = part_of(path)
        _fetch_part(url, part, progress)
        try:
            found = pooch.file_hash(str(part), alg="md5")
            if found != md5:
                part.unlink()
                raise FileError(
                    f"{url}: expected a file of MD5 sum {md5}; found one of {found}, which was removed (download it "
                    "again; if the sum is the same again, the file has been changed where it is published)"
                )
            put_in_place(part, path)
        except FileError:
            raise
        except OSError as error:
            raise FileError(f"{path}: expected to be able to write it; found: {error.strerror or error}") from error
    return path


def part_of(path: Path) -> Path:
    """Where an unfinished download of `path` is kept."""
    return path.with_name(f".{path.name}.part")


def _is_it(pooch: Any, path: Path, md5: str) -> bool:
    if not path.exists():
        return False
    with opened(path):  # a regular file
        return bool(pooch.file_hash(str(path), alg="md5") == md5)


def _url(item: PublicData, base_url: str | None) -> str:
    base = (
        os.environ.get(ENVIRONMENT) if base_url is None else instance("base_url", base_url, str, "an address, a text")
    )
    if not base:
        return item.url
    if not re.match(r"https?://", base):
        raise ArgumentError(f"base_url: expected an address that begins with http:// or https://; found {base!r}")
    return f"{base.rstrip('/')}/{item.file}"


def _fetch_part(url: str, part: Path, progress: Progress | None) -> None:
    """Fetch `url` to a part file, from where that ends, in as many goes as it takes while each brings it further."""
    try:
        with _opened_part(part) as file:
            furthest = file.seek(0, os.SEEK_END)
            idle = 0
            while True:
                try:
                    if _go_on(url, file, progress):
                        return
                    why = "the connection ended early"
                except _Broken as error:
                    why = one_line(error)
                now = file.seek(0, os.SEEK_END)
                # what is fetched again is no progress
                idle = 0 if now > furthest else idle + 1
                furthest = max(now, furthest)
                if idle == ATTEMPTS:
                    kept = f"; {now} bytes are kept, and the same command goes on from there" if now else ""
                    raise FileError(f"{url}: expected to be able to fetch it; found: {why}{kept}")
                time.sleep(idle * PAUSE_S)
    except FileError:
        with contextlib.suppress(OSError):
            if not part.is_symlink() and part.is_file() and not part.stat().st_size:
                part.unlink()
        raise
    except OSError as error:
        raise FileError(f"{part}: expected to be able to write it; found: {error.strerror or error}") from error


class _Broken(Exception):
    """A connection did not come about, or broke."""


@contextlib.contextmanager
def _opened_part(part: Path) -> Iterator[IO[bytes]]:
    """The part file, to be gone on with; made where there is none. Never a link: what it leads to is not ours."""
    if part.is_symlink():
        raise FileError(f"{part}: expected an unfinished download; found a symbolic link (remove it)")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(os.open(part, flags | getattr(os, "O_BINARY", 0), 0o666), "r+b", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileError(f"{part}: expected an unfinished download; found another kind of file (remove it)")
        yield file


def _go_on(url: str, file: IO[bytes], progress: Progress | None) -> bool:
    """One request for what follows the file's bytes, written as it comes; whether the file is complete."""
    requests = library("requests", "download", "download")
    start = file.seek(0, os.SEEK_END)
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        answer = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    except _broken() as error:
        raise _Broken(error) from error
    with answer:
        status, encoded = answer.status_code, answer.headers.get("Content-Encoding", "identity") != "identity"
        if start and status == requests.codes.requested_range_not_satisfiable:
            if answer.headers.get("Content-Range") == f"bytes */{start}":
                return True
            file.truncate(0)  # it is no part of this file: from the beginning
            return False
        if 400 <= status < 500:
            raise FileError(f"{url}: expected a file; found HTTP status {status} ({answer.reason})")
        if status >= 500:
            raise _Broken(f"HTTP status {status} ({answer.reason})")
        if start and status == requests.codes.partial_content and encoded:
            file.truncate(0)  # a part of something else, compressed
            return False
        if status != requests.codes.partial_content or not _begins_at(answer, start):
            # the server sends all of it
            start = 0
        length = answer.headers.get("Content-Length", "")
        # the length is that of what travels; where that is compressed, its own end says that it is whole
        total = start + int(length) if length.isdigit() and not encoded else None
        file.seek(start)
        file.truncate(start)
        there = start
        for piece in _pieces(answer, encoded):
            left = memoryview(piece)
            while left:
                left = left[file.write(left) :]
            there += len(piece)
            if progress is not None:
                progress(there, total)
    return total is None or there == total


def _pieces(answer: Any, encoded: bool) -> Iterator[bytes]:
    """What comes, as soon as it is there: nothing that came is lost when the connection breaks."""
    # urllib3 before 2.1 waits for all that it is asked for, and loses it when the connection breaks
    read, size = (answer.raw.read1, CHUNK) if hasattr(answer.raw, "read1") else (answer.raw.read, 2**12)
    while True:
        try:
            piece = read(size, decode_content=encoded)
        except _broken() as error:
            raise _Broken(error) from error
        if not piece:
            return
        yield piece


def _broken() -> tuple[type[Exception], ...]:
    """What requests and urllib3 raise of an address, a connection or an answer."""
    import requests
    import urllib3

    return requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError


def _begins_at(answer: Any, start: int) -> bool:
    return str(answer.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _unpacked(archive: Path, target: Path) -> Path:
    """Unpack a zip archive of one file or folder, whole or not at all."""
    try:
        with temporary(archive.parent) as work:
            work.mkdir()
            with zipfile.ZipFile(archive) as packed:
                names = [name for name in packed.namelist() if not name.startswith("__MACOSX/")]
                packed.extractall(work, names)
            tops = list(work.iterdir())
            os.replace(tops[0] if len(tops) == 1 else work, target)
    except (OSError, *DAMAGED) as error:
        raise FileError(f"{archive}: expected to be able to unpack it to {target}; found: {one_line(error)}") from error
    return target
