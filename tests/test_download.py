"""Downloads, from a server of our own on this machine: whole, broken and resumed, refused."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import re
import socket
import sys
import threading
import zipfile
from pathlib import Path

import click.testing
import numpy as np
import pytest

from blocksim import ArgumentError, FileError, MissingLibraryError
from blocksim._atomic_io import locked
from blocksim.cli import main
from blocksim.data import download, open_dataset, public

LARGE = np.random.default_rng(0).bytes(3_000_000)


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` under every name; `break_after` bytes it ends the connection, `breaks` times."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.status, self.ranges, self.break_after, self.breaks = LARGE, 200, True, 1_000_000, 0
        self.encoding = None
        self.misplaced = False  # whether a range asked for is ignored, and the answer says so
        self.requests = []  # (path, Range header or None)
        self.url = f"http://127.0.0.1:{self.server_port}/mirror"

    @property
    def asked(self):
        return [asked for _, asked in self.requests]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        start = 0 if server.misplaced else start
        if server.status != 200:
            self.send_error(server.status)
            return
        if asked and server.ranges and start >= len(server.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[start:]
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(body)))
        if server.encoding:
            self.send_header("Content-Encoding", server.encoding)
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            body = body[: server.break_after]
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    # pieces much smaller than the file, no pauses, no proxy between us and ourselves
    monkeypatch.setattr(public, "CHUNK", 65_536)
    monkeypatch.setattr(public, "PAUSE_S", 0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(public.ENVIRONMENT, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def known(server, monkeypatch):
    """Says which content has the right checksum."""

    def set_known(content, name="nmnist-test"):
        item = public.PUBLIC[name]
        changed = public.PublicData(**{**vars(item), "md5": hashlib.md5(content).hexdigest()})
        monkeypatch.setitem(public.PUBLIC, name, changed)

    set_known(LARGE)
    return set_known


def fetch(server, folder, name="nmnist-test", **settings):
    return download(name, folder, base_url=server.url, **settings)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_whole(server, known, tmp_path):
    seen = []
    path = fetch(server, tmp_path / "new", progress=lambda there, total: seen.append((there, total)))
    assert path == tmp_path / "new" / "nmnist_test.zip"
    assert path.read_bytes() == LARGE
    assert files(path.parent) == ["nmnist_test.zip"]
    assert server.requests == [("/mirror/nmnist_test.zip", None)]
    assert seen[-1] == (len(LARGE), len(LARGE))
    assert [there for there, _ in seen] == sorted({there for there, _ in seen})


def test_what_is_there_is_not_fetched_again(server, known, tmp_path):
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.requests) == 1
    # unless it is damaged
    (tmp_path / "nmnist_test.zip").write_bytes(LARGE[:-1])
    assert fetch(server, tmp_path).read_bytes() == LARGE
    assert len(server.requests) == 2


def test_a_broken_connection_is_resumed_where_it_broke(server, known, tmp_path):
    server.breaks = 2
    assert fetch(server, tmp_path).read_bytes() == LARGE
    assert server.asked[0] is None
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.asked[1:]]
    assert 0 < starts[0] <= 1_000_000 < starts[1] <= 2_000_000
    assert len(starts) == 2
    assert files(tmp_path) == ["nmnist_test.zip"]


def test_an_interrupted_download_is_resumed_by_the_next_call(server, known, tmp_path):
    def interrupt(there, total):
        if there > 1_500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, progress=interrupt)
    assert files(tmp_path) == [".nmnist_test.zip.part"]
    kept = (tmp_path / ".nmnist_test.zip.part").stat().st_size
    assert 1_500_000 < kept < len(LARGE)
    seen = []
    assert fetch(server, tmp_path, progress=lambda *at: seen.append(at)).read_bytes() == LARGE
    assert server.asked == [None, f"bytes={kept}-"]
    assert seen[0][0] > kept
    assert seen[-1] == (len(LARGE), len(LARGE))
    assert files(tmp_path) == ["nmnist_test.zip"]


def test_any_number_of_breaks_as_long_as_something_comes(server, known, tmp_path):
    server.breaks, server.break_after = 3 * public.ATTEMPTS, 150_000
    assert fetch(server, tmp_path).read_bytes() == LARGE
    assert len(server.requests) == 3 * public.ATTEMPTS + 1


def test_a_server_that_answers_with_another_range(server, known, tmp_path):
    (tmp_path / ".nmnist_test.zip.part").write_bytes(LARGE[:1000])
    server.misplaced = True
    assert fetch(server, tmp_path).read_bytes() == LARGE


def test_a_server_without_ranges_sends_all_again(server, known, tmp_path):
    server.ranges, server.breaks = False, 1
    assert fetch(server, tmp_path).read_bytes() == LARGE
    assert server.asked[0] is None
    assert server.asked[1].startswith("bytes=")
    assert len(server.requests) == 2


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_that_is_complete_or_too_long(server, known, tmp_path, extra):
    (tmp_path / ".nmnist_test.zip.part").write_bytes(LARGE + extra)
    assert fetch(server, tmp_path).read_bytes() == LARGE
    assert server.asked == [f"bytes={len(LARGE + extra)}-"] + ([None] if extra else [])
    assert files(tmp_path) == ["nmnist_test.zip"]


def test_a_wrong_checksum_leaves_nothing(server, known, tmp_path):
    known(b"other")
    with pytest.raises(FileError) as caught:
        fetch(server, tmp_path)
    for content in (b"other", LARGE):
        assert hashlib.md5(content).hexdigest() in str(caught.value)
    assert server.url in str(caught.value)
    assert files(tmp_path) == []


def test_a_part_of_another_file_is_found_out(server, known, tmp_path):
    (tmp_path / ".nmnist_test.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(FileError, match="MD5 sum"):
        fetch(server, tmp_path)
    assert files(tmp_path) == []
    assert fetch(server, tmp_path).read_bytes() == LARGE


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 5)])
def test_the_server_has_no_such_file(server, known, tmp_path, status, requests):
    server.status = status
    with pytest.raises(FileError, match=str(status)) as caught:
        fetch(server, tmp_path)
    assert f"{server.url}/nmnist_test.zip" in str(caught.value)
    assert len(server.requests) == requests
    assert files(tmp_path) == []


def test_a_server_that_is_not_there(server, known, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refused
        with pytest.raises(FileError, match="expected to be able to fetch it"):
            download("nmnist-test", tmp_path, base_url=f"http://127.0.0.1:{taken.getsockname()[1]}")


def test_a_connection_that_always_breaks_says_what_is_kept(server, known, tmp_path):
    server.breaks, server.break_after = 10**6, 0
    public.part_of(tmp_path / "nmnist_test.zip").write_bytes(LARGE[:1000])
    with pytest.raises(FileError, match="1000 bytes are kept, and the same command goes on from there"):
        fetch(server, tmp_path)
    assert server.asked == ["bytes=1000-"] * public.ATTEMPTS
    server.breaks = 0
    assert fetch(server, tmp_path).read_bytes() == LARGE


def test_a_folder_that_cannot_be_written_to(server, known, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    public.part_of(tmp_path / "nmnist_test.zip").mkdir()  # in the way
    for folder in (tmp_path / "file", tmp_path / "none" / "deeper", tmp_path):
        with pytest.raises(FileError, match=re.escape(str(folder))):
            fetch(server, folder)
    assert files(tmp_path) == [".nmnist_test.zip.part", "file"]


def test_a_full_disk(server, known, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))  # as `ulimit -f`: files end there
    try:
        with pytest.raises(FileError, match="File too large"):
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path) == [".nmnist_test.zip.part"]  # the next call goes on from there
    assert fetch(server, tmp_path).read_bytes() == LARGE
    assert server.asked == [None, "bytes=1500000-"]


def test_a_link_in_the_place_of_the_part_is_not_followed(server, known, tmp_path):
    (tmp_path / "other").write_bytes(b"mine")
    public.part_of(tmp_path / "nmnist_test.zip").symlink_to(tmp_path / "other")
    with pytest.raises(FileError, match="symbolic link"):
        fetch(server, tmp_path)
    assert (tmp_path / "other").read_bytes() == b"mine"
    assert server.requests == []


def test_the_least_that_comes_is_kept(server, known, tmp_path, monkeypatch):
    monkeypatch.setattr(public, "CHUNK", 2**20)
    server.content = LARGE[:20_000]
    known(server.content)
    server.breaks, server.break_after = 19, 1000
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert server.asked == [None, *(f"bytes={start}-" for start in range(1000, 20_000, 1000))]


def test_a_server_that_compresses_though_it_is_asked_not_to(server, known, tmp_path):
    packed = gzip.compress(b"0123456789" * 5000)
    server.content, server.encoding = packed, "gzip"
    with pytest.raises(FileError, match="MD5 sum"):
        fetch(server, tmp_path)
    known(b"0123456789" * 5000)
    assert fetch(server, tmp_path).read_bytes() == b"0123456789" * 5000
    # in the middle of it, its ranges are of no use
    (tmp_path / "nmnist_test.zip").unlink()
    public.part_of(tmp_path / "nmnist_test.zip").write_bytes(b"0123456789")
    assert fetch(server, tmp_path).read_bytes() == b"0123456789" * 5000


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, known, tmp_path):
    server.ranges, server.breaks = False, 10**6
    with pytest.raises(FileError, match=r"ended early|Connection broken|IncompleteRead"):
        fetch(server, tmp_path)
    assert len(server.requests) == public.ATTEMPTS + 1


def test_one_download_of_a_file_at_a_time(server, known, tmp_path):
    path = tmp_path / "nmnist_test.zip"
    with locked(tmp_path / ".nmnist_test.zip.lock", ""), pytest.raises(FileError, match=f"process {os.getpid()} on"):
        fetch(server, tmp_path)
    assert server.requests == []
    (tmp_path / ".nmnist_test.zip.lock").write_text("process 1 on another, killed")
    assert fetch(server, tmp_path) == path
    assert files(tmp_path) == ["nmnist_test.zip"]


def test_nmnist_opens_packed_and_unpacked(server, known, tmp_path):
    server.content = archive(**{"Test/1/1.bin": bytes([3, 4, 128, 0, 9]), "__MACOSX/Test/1/1.bin": b"x"})
    known(server.content)
    packed = fetch(server, tmp_path)
    unpacked = fetch(server, tmp_path, unpack=True)
    assert unpacked == tmp_path / "nmnist_test"
    for path in (packed, unpacked):
        data = open_dataset(path)
        assert data.labels.tolist() == [1]
        assert data.batch([0]).x.indices.tolist() == [34 * 34 + 4 * 34 + 3]
    assert files(tmp_path) == ["nmnist_test", "nmnist_test.zip"]
    assert fetch(server, tmp_path, unpack=True) == unpacked
    assert len(server.requests) == 1


def test_a_single_file_is_unpacked_beside_the_archive(server, known, tmp_path):
    server.content = archive(**{"shd_test.h5": b"content"})
    known(server.content, "shd-test")
    assert fetch(server, tmp_path, "shd-test", unpack=True).read_bytes() == b"content"
    assert files(tmp_path) == ["shd_test.h5", "shd_test.h5.zip"]


def test_an_archive_that_cannot_be_unpacked(server, known, tmp_path):
    # the right sum, and no archive
    with pytest.raises(FileError, match="expected to be able to unpack it"):
        fetch(server, tmp_path, unpack=True)
    assert files(tmp_path) == ["nmnist_test.zip"]


def test_wrong_arguments(server, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=r"name: .*'nmnist-train', 'nmnist-test', 'shd-train', 'shd-test'"):
        download("mnist", tmp_path)
    with pytest.raises(ArgumentError, match=r"base_url: .*'ftp://x'"):
        download("shd-test", tmp_path, base_url="ftp://x")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingLibraryError, match=r"blocksim\[download\]"):
        fetch(server, tmp_path)


def test_the_table_holds_the_published_sums():
    sums = {
        "nmnist-train": "20959b8e626244a1b502305a9e6e2031", "nmnist-test": "69ca8762b2fe404d9b9bad1103e97832",
        "shd-train": "f3252aeb598ac776c1b526422d90eecb", "shd-test": "1503a5064faa34311c398fb0a1ed0a6f",
    }  # fmt: skip
    assert {name: item.md5 for name, item in public.PUBLIC.items()} == sums
    assert len({item.url for item in public.PUBLIC.values()}) == 4
    assert all(item.url.startswith("https://") for item in public.PUBLIC.values())


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        return click.testing.CliRunner().invoke(main, ["data", *arguments])

    return call


def test_command_download(server, known, run, monkeypatch):
    result = run("download", "nmnist-test", "--base-url", server.url)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(Path("blocksim-data/nmnist_test.zip"))
    assert Path("blocksim-data/nmnist_test.zip").read_bytes() == LARGE
    monkeypatch.setenv("BLOCKSIM_DATA_URL", server.url)
    assert run("download", "nmnist-test", "-o", "other").exit_code == 0
    assert Path("other/nmnist_test.zip").read_bytes() == LARGE
    server.status = 404
    result = run("download", "nmnist-train")
    assert result.exit_code == 2
    assert "HTTP status 404" in result.output
    assert run("download", "cifar").exit_code == 2


def test_command_list(run):
    assert all(name in run("list").output for name in public.PUBLIC)
    assert json.loads(run("list", "--json").output)["shd-test"]["md5"] == "1503a5064faa34311c398fb0a1ed0a6f"


def test_command_info(run):
    np.savez("events.npz", times=[0.5, 7.0, 7.2], units=[0, 3, 3], offsets=[0, 1, 3], labels=[0, 1], channels=8)
    result = run("info", "events.npz", "--dt", "0.5", "--steps", "10", "--pool", "4", "--clip")
    assert result.exit_code == 0, result.output
    assert "2 samples, 2 channels, dt = 0.5 ms" in result.output
    assert "1 sample cut by 1 event in all, 1 padded" in result.output
    facts = json.loads(run("info", "events.npz", "--trim", "0", "--span", "4", "--json").output)
    assert facts["duration_ms"]["max"] == 5.0
    facts = json.loads(run("info", "events.npz", "--json").output)
    assert (facts["events"]["max"], facts["steps"]) == (2.0, None)
    result = run("info", "none.h5")
    assert result.exit_code == 2
    assert "none.h5" in result.output
