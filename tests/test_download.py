"""The download of a published set, from mirrors on this machine that do what a mirror can do wrong."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from common.galaxies import download

import pytest
from forked import CONTEXT

GALAXIES = bytes(range(256)) * 4000
PUBLISHED = download.RemoteFile("Galaxy10.h5", len(GALAXIES), hashlib.sha256(GALAXIES).hexdigest(), ())
CONTENTS = {"/right": GALAXIES, "/slowly": GALAXIES, "/short": GALAXIES[:512_000], "/stall": GALAXIES[:1000]}
CONTENTS["/page"] = b"<html>Please sign in".ljust(len(GALAXIES))


class Mirror(BaseHTTPRequestHandler):
    """Serves CONTENTS by path, announced as long as GALAXIES; anything else is 404."""

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path not in CONTENTS:
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(GALAXIES)))
        self.end_headers()
        if self.path == "/slowly":
            time.sleep(0.5)
        self.wfile.write(CONTENTS[self.path])
        if self.path == "/stall":
            self.server.over.wait(300)

    def log_message(self, *args):
        pass


@pytest.fixture(name="server")
def mirror():
    """A server of Mirror on this machine, its address as url."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.requests, server.over = [], threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def fetch(cache, *urls):
    return download.fetch(cache, PUBLISHED._replace(mirrors=urls))


@pytest.mark.parametrize(("path", "reason"), [
    ("/page", "serves a different file"), ("/short", "512000 bytes read, 512000 more expected"),
    ("/none", "404 Client Error"), ("/stall", "Read timed out")])  # fmt: skip
def test_a_bad_mirror_is_named_and_the_next_one_tried(server, monkeypatch, tmp_path, capsys, path, reason):
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.5))
    assert fetch(tmp_path, f"{server.url}{path}", f"{server.url}/right").read_bytes() == GALAXIES
    assert server.requests == [path, "/right"]
    [printed] = capsys.readouterr().out.splitlines()
    assert printed.startswith(f"{server.url}{path}: ")
    assert reason in printed


def test_without_a_good_mirror_the_cache_stays_as_it_is(server, tmp_path, capsys):
    old = tmp_path / "Galaxy10.h5"
    for there in ([], [old]):
        with pytest.raises(ConnectionError, match=r"could not be downloaded from any mirror: docs/data\.md"):
            fetch(tmp_path, f"{server.url}/page", "http://127.0.0.1:1/right")
        first, second = capsys.readouterr().out.splitlines()
        assert "/page: serves" in first
        assert "refused" in second
        assert [file for file in tmp_path.iterdir() if file.suffix != ".lock"] == there
        old.write_bytes(b"an older edition")
    assert old.read_bytes() == b"an older edition"


def test_the_users_mirror_is_asked_first_for_galaxy10_sdss_only(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GALAXY10_URL", f"{server.url}/right")
    fetch(tmp_path, f"{server.url}/page")
    with pytest.raises(ConnectionError):
        download.fetch(tmp_path, PUBLISHED._replace(name="Galaxy10_DECals.h5", mirrors=(f"{server.url}/none",)))
    assert server.requests == ["/right", "/none"]


def test_two_processes_at_once_download_once(server, tmp_path):
    processes = [CONTEXT.Process(target=fetch, args=(tmp_path, f"{server.url}/slowly")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.requests == ["/slowly"]


def test_a_damaged_cached_file_is_downloaded_again(server, tmp_path):
    for spoilt in (b"spoilt", GALAXIES[:-1] + b"!", GALAXIES):
        (tmp_path / "Galaxy10.h5").write_bytes(spoilt)
        assert fetch(tmp_path, f"{server.url}/right").read_bytes() == GALAXIES
    assert server.requests == ["/right"] * 2  # not for the file that is whole
