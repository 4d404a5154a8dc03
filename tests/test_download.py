import hashlib
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from common.galaxies import download

import pytest
from conftest import ROOT

GALAXIES = bytes(range(256)) * 4000
LENGTH = len(GALAXIES)
PUBLISHED = download.RemoteFile("Galaxy10.h5", len(GALAXIES), hashlib.sha256(GALAXIES).hexdigest(), ())


class Mirror(BaseHTTPRequestHandler):
    """Serves by path: /right, and all that a mirror can do wrong; anything else is 404."""

    def do_GET(self):
        self.server.requests.append(self.path)
        act = getattr(self, f"do_{self.path[1:]}", None)
        if act is None:
            self.send_error(404, "Not Found")
        else:
            act()

    def announce(self, length=LENGTH, **headers):
        self.send_response(200)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def redirect(self, url):
        self.send_response(302)
        self.send_header("Location", url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_right(self):
        self.announce()
        self.wfile.write(GALAXIES)

    def do_slowly(self):  # but well: half a second
        self.announce()
        for start in range(0, len(GALAXIES), 100_000):
            self.wfile.write(GALAXIES[start : start + 100_000])
            time.sleep(0.05)

    def do_wrong(self):
        self.announce()
        self.wfile.write(GALAXIES[::-1])

    def do_short(self):  # fewer bytes than announced
        self.announce()
        self.wfile.write(GALAXIES[: len(GALAXIES) // 2])

    def do_unannounced(self):  # fewer, and nothing announced
        self.announce(None)
        self.wfile.write(GALAXIES[: len(GALAXIES) // 2])

    def do_stall(self):
        self.announce()
        self.wfile.write(GALAXIES[:1000])
        self.server.over.wait(300)

    def do_page(self):
        self.announce(Content_Type="text/html; charset=utf-8")
        self.wfile.write(b"<html>Please sign in".ljust(len(GALAXIES)))

    def do_circle(self):
        self.redirect("/circle")

    def do_file(self):
        self.redirect("file:///etc/passwd")

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


def test_right_bytes_are_kept_and_never_fetched_twice(server, tmp_path):
    path = fetch(tmp_path / "cache", f"{server.url}/right")
    assert path == tmp_path / "cache" / "Galaxy10.h5"
    assert path.read_bytes() == GALAXIES
    assert fetch(tmp_path / "cache", f"{server.url}/right") == path
    assert server.requests == ["/right"]


REASONS = {
    "/wrong": "serves other bytes",
    "/short": "512000 bytes read, 512000 more expected",
    "/unannounced": "serves other bytes",
    "/none": "404 Client Error",
    "/stall": "Read timed out",
    "/page": "serves other bytes",
    "/circle": "Exceeded 30 redirects",
    "/file": "No connection adapters were found for 'file:///etc/passwd'",
}


@pytest.mark.parametrize("path", REASONS)
def test_a_bad_mirror_is_named_and_the_next_one_tried(server, monkeypatch, tmp_path, capsys, path):
    monkeypatch.setattr(download, "TIMEOUT", (0.5, 0.5))
    found = fetch(tmp_path, f"{server.url}{path}", f"{server.url}/right")
    assert found.read_bytes() == GALAXIES
    assert server.requests[0] == path
    assert server.requests[-1] == "/right"
    [printed] = capsys.readouterr().out.splitlines()
    assert printed.startswith(f"{server.url}{path}: ")
    assert REASONS[path] in printed


def test_without_a_good_mirror_nothing_is_left_behind_and_nothing_lost(server, tmp_path):
    sentence = (
        "Galaxy10.h5 could not be downloaded from any mirror .*/wrong: serves other bytes.*; .*/none: 404 Client Error"
    )
    old = tmp_path / "Galaxy10.h5"
    for there in ([], [old]):
        with pytest.raises(ConnectionError, match=sentence):
            fetch(tmp_path, f"{server.url}/wrong", f"{server.url}/none")
        assert [file for file in tmp_path.iterdir() if file.suffix != ".lock"] == there
        old.write_bytes(b"an older edition")
    assert old.read_bytes() == b"an older edition"


def test_nobody_listening_is_a_mirror_that_cannot_be_reached(server, tmp_path, capsys):
    assert fetch(tmp_path, "http://127.0.0.1:1/right", f"{server.url}/right").read_bytes() == GALAXIES
    assert "Connection refused" in capsys.readouterr().out


def test_your_own_mirror_is_asked_first_for_the_set_of_courses_alone(server, tmp_path, monkeypatch):
    monkeypatch.setenv("GALAXY10_URL", f"{server.url}/right")
    fetch(tmp_path, f"{server.url}/wrong")
    with pytest.raises(ConnectionError):
        download.fetch(tmp_path, PUBLISHED._replace(name="Galaxy10_DECals.h5", mirrors=(f"{server.url}/none",)))
    assert server.requests == ["/right", "/none"]


def test_two_processes_at_once_fetch_once(server, tmp_path):
    code = (
        "import sys; from common.galaxies import download\n"
        f"mirrors = ('{server.url}/slowly',)\n"
        f"published = download.RemoteFile('Galaxy10.h5', {LENGTH}, '{PUBLISHED.sha256}', mirrors)\n"
        f"print(download.fetch('{tmp_path}', published))"
    )
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=300)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert all(text.splitlines()[-1] == str(tmp_path / "Galaxy10.h5") for text in printed)
    assert server.requests == ["/slowly"]


@pytest.mark.parametrize("spoilt", [b"spoilt", GALAXIES[:-1] + b"!"])
def test_a_cached_file_gone_bad_is_fetched_anew(spoilt, server, tmp_path):
    (tmp_path / "Galaxy10.h5").write_bytes(spoilt)
    assert fetch(tmp_path, f"{server.url}/right").read_bytes() == GALAXIES
