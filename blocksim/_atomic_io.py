"""Outputs: files written whole or not at all, whatever ends the process, and folders that one process owns.

Owns the temporary names, and what becomes of them. A file is written under the name of a part, in the folder it belongs
to, brought to the disk and renamed. A part names its process (machine, number, time of its start), so that the parts
of processes that were killed are recognised, and removed by the next process that writes to the folder.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blocksim._npy import PASS_BYTES, kind_of
from blocksim._validation import flag, found, instance
from blocksim.errors import ArgumentError, FileError

PART = re.compile(r"\.blocksim-([0-9a-f]{8})-(\d+)-(\d+)-\d+\.part(\.\w+)?")
# parts of this process, and of those it was forked from, with the number of the process
_parts: set[tuple[int, Path]] = set()
_numbers = itertools.count()


def check_output(
    path: str | Path, suffixes: tuple[str, ...], overwrite: bool, inputs: Iterable[Path | None] = ()
) -> Path:
    """Raise `FileError` unless a file can be written there: to be called before the work whose result it is to hold.

    `inputs` are the files that the work reads, which its result may not replace. `ArgumentError` where `path` is no
    name, or `overwrite` no bool.
    """
    path = named(path)
    flag("overwrite", overwrite)
    if path.suffix.lower() not in suffixes:
        raise FileError(f"{path}: expected a name that ends in {' or '.join(suffixes)}; found {path.name!r}")
    if _check_place(path) and not overwrite:
        raise FileError(f"{path}: expected a new file; found one that exists (overwrite=True replaces it)")
    for source in inputs:
        if source is not None and path.exists() and source.exists() and path.samefile(source):
            raise FileError(f"{path}: expected a file other than the inputs; found one of them (choose another name)")
    check_folder(path.parent)
    return path


def named(path: Any) -> Path:
    """A caller's name of a file; `ArgumentError` where it is none, `FileError` where no file can have it."""
    name = os.fspath(instance("path", path, (str, os.PathLike), "the name of a file, a text or a Path"))
    if not isinstance(name, str):
        raise ArgumentError(f"path: expected the name of a file, a text or a Path; found {found(name)}")
    try:
        wrong = "a null character" if b"\0" in os.fsencode(name) else None
    except UnicodeEncodeError:
        wrong = "a character that names of files cannot have"
    if wrong:
        raise FileError(f"{name!r}: expected the name of a file; found one with {wrong}")
    return Path(name)


def check_folder(folder: str | Path) -> Path:
    """Raise `FileError` unless `folder` is a folder that files can be written to; clear it of dead processes' parts."""
    folder = Path(folder)
    with _as_file_error(folder, "a folder to write to"):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "none"
            raise FileError(f"{folder}: expected a folder to write to; found {found} (create it first)")
    with _as_file_error(folder, "a folder that can be written to"), tempfile.TemporaryFile(dir=folder):
        pass  # whether a file can be made is asked of the file system: permissions alone do not tell
    _remove_stale(folder)
    return folder


def make_folder(folder: str | Path) -> Path:
    """The folder, made if its parent is there; `FileError` unless files can be written to it."""
    folder = named(folder)
    with _as_file_error(folder, "a folder that can be made"):
        if not folder.exists() and folder.parent.is_dir():
            folder.mkdir(exist_ok=True)
    return check_folder(folder)


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when the block ends well, and is removed when it does not.

    The content is on the disk before the name is: a power cut leaves the old file or the new one.

    Raises `FileError` where it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written(Path(folder) / "note.txt") as part:
    ...         _ = part.write_text("whole")
    ...     [file.name for file in Path(folder).iterdir()]
    ['note.txt']
    """
    path = named(path)
    _check_place(path)
    with _as_file_error(path, "to be able to write it"), temporary(path.parent, path.suffix) as part:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        put_in_place(part, path)


def put_in_place(part: Path, path: Path) -> None:
    """Give a part its name once its content is on the disk, and bring the name there too."""
    _to_disk(part, os.O_RDWR)
    os.replace(part, path)
    with contextlib.suppress(OSError):  # some systems know no such thing
        _to_disk(path.parent, os.O_RDONLY)


@contextlib.contextmanager
def temporary(folder: Path, suffix: str = "") -> Iterator[Path]:
    """A name in a folder for a file or folder that is removed, if it is there, when the block ends."""
    suffix = suffix if re.fullmatch(r"\.\w{1,12}", suffix) else ""
    host, pid, start = _host(), os.getpid(), _started(os.getpid()) or 0
    part = folder / f".blocksim-{host}-{pid}-{start}-{next(_numbers)}.part{suffix}"
    _parts.add((pid, part))
    try:
        yield part
    finally:
        _remove(part)
        _parts.discard((pid, part))  # not reached where cleaning up is interrupted: then the process's end sees to it


def discard_parts() -> None:
    """Remove what this process was writing: at its end, and where it ends without unwinding."""
    for pid, part in list(_parts):
        if pid == os.getpid():
            _remove(part)


atexit.register(discard_parts)


class Scratch:
    """An array on disk while it is computed, in a file without a name: it is gone when the process is.

    Space is reserved at the beginning. Raises `FileError` where there is none.

    Parameters
    ----------
    folder : Path
        Where there is to be space.
    shape : (batch, time, neurons)
    dtype : numpy dtype
    """

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype, self._folder = shape, dtype, folder
        self.nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        with _as_file_error(folder, f"room for {self.nbytes} bytes"):
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            try:
                _reserve(self._file.fileno(), self.nbytes)
            except BaseException:
                self._file.close()
                raise

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, start: int, block: np.ndarray) -> None:
        """Write the steps of (batch, steps, neurons) that begin at `start`."""
        _, steps, neurons = self.shape
        with _as_file_error(self._folder, f"room for {self.nbytes} bytes"):
            for sample, values in enumerate(block):
                self._file.seek((sample * steps + start) * neurons * self.dtype.itemsize)
                left = memoryview(np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8))
                while left:
                    left = left[self._file.write(left) :]

    def pieces(self) -> Iterator[bytes]:
        """What was written, in order."""
        self._file.seek(0)
        while piece := self._file.read(PASS_BYTES):
            yield piece


def reserve(part: Path, nbytes: int) -> None:
    """Keep room for that many bytes in a file that is written later; `OSError` where there is none."""
    with part.open("r+b") as file:
        _reserve(file.fileno(), nbytes)


def memory() -> int:
    """Bytes of this machine's memory; without bound where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return sys.maxsize


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Keep other processes out while the block runs, by a lock on a file of that name, which is removed at the end.

    The system lets go of the lock when its process ends, however it ends: a file that was left behind locks nothing.
    `FileError` where another process holds it says that `what` was expected, and names the process. Where the system
    knows no such locks, nothing is kept out.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with _as_file_error(path, "to be able to write it"):
        file = _lock(path, what, fcntl)
    try:
        with _as_file_error(path, "to be able to write it"):
            os.truncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(file)


def _lock(path: Path, what: str, fcntl: Any) -> int:
    """The file of that name, open and locked."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(file, 200).decode("utf-8", "replace") or "another process"
                raise FileError(
                    f"{path.parent}: expected {what}; found {holder} at work (wait until it has ended)"
                ) from None
            except OSError:
                pass  # a file system without locks
            # who held it before may have removed the name since it was opened
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


@contextlib.contextmanager
def _as_file_error(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{path}: expected {expected}; found: {error.strerror or error}") from error


def _check_place(path: Path) -> bool:
    """Raise `FileError` unless a file can have this name; whether there is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return os.path.lexists(path)
    except NotADirectoryError:
        return False  # its folder is none, as is found out next
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise FileError(f"{path}: expected the name of a file to write; found: {why}") from error
    if not stat.S_ISREG(mode):
        raise FileError(f"{path}: expected the name of a file to write; found {kind_of(mode)}")
    return True


def _to_disk(path: Path, flags: int) -> None:
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _reserve(file: int, nbytes: int) -> None:
    if not nbytes or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, nbytes)
    except OSError as error:
        # a file system without it: then writing finds out
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise


def _remove(part: Path) -> None:
    with contextlib.suppress(OSError):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _remove_stale(folder: Path) -> None:
    """Remove the parts of processes of this machine that are no more."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = PART.fullmatch(entry.name)
            if match and match[1] == _host() and not _alive(int(match[2]), int(match[3])):
                _remove(Path(entry.path))


def _host() -> str:
    """This machine; within it, what numbers of processes mean: containers count from 1."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """When a process began, in the system's ticks; None where that is not known, 0 where it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # after the name, which may hold anything, in brackets: state, and 19 fields on the time
            fields = file.read().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def _alive(pid: int, start: int) -> bool:
    if os.name != "posix":
        return True  # not to be asked there
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass  # another user's
    now = _started(pid)
    return now is None or now == start or not start
