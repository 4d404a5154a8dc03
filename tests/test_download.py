import hashlib
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import error_of, run

from common import download

GALAXIES = bytes(range(256)) * 4000
PUBLISHED = download.Published("Galaxy10.h5", len(GALAXIES), hashlib.sha256(GALAXIES).hexdigest(), ())


class Mirror(BaseHTTPRequestHandler):
    """Serves by path: /right, /wrong bytes, /short (fewer than announced), anything else 404."""

    def do_GET(self):
        self.server.requests.append(self.path)
        body = {"/right": GALAXIES, "/wrong": GALAXIES[::-1], "/short": GALAXIES}.get(self.path)
        if body is None:
            self.send_error(404, "Not Found")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/short" else body)

    def log_message(self, *args):
        pass


@contextmanager
def mirror():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server():
    with mirror() as running:
        yield running


@pytest.fixture
def nobody():
    """An address at which nobody listens."""
    with mirror() as running:
        url = running.url
    return url


def fetch(cache, *urls):
    return download.fetch(cache, PUBLISHED._replace(mirrors=urls))


def test_right_bytes_are_kept_and_never_fetched_twice(server, tmp_path):
    path = fetch(tmp_path / "cache", f"{server.url}/right")
    assert path == tmp_path / "cache" / "Galaxy10.h5"
    assert path.read_bytes() == GALAXIES
    assert fetch(tmp_path / "cache", f"{server.url}/right") == path
    assert server.requests == ["/right"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/wrong", "serves other bytes"), ("/short", "broke off before the end"), ("/none", "answers 404")],
)
def test_a_bad_mirror_is_named_and_the_next_one_tried(server, tmp_path, capsys, path, reason):
    found = fetch(tmp_path, f"{server.url}{path}", f"{server.url}/right")
    assert found.read_bytes() == GALAXIES
    assert server.requests == [path, "/right"]
    printed = capsys.readouterr().out
    assert f"{server.url}{path}: " in printed
    assert reason in printed


@pytest.mark.parametrize("path", ["/wrong", "/short", "/none"])
def test_without_a_good_mirror_nothing_is_left_behind(server, tmp_path, path):
    with pytest.raises(ConnectionError, match=f"no mirror gave Galaxy10.h5.*{path}"):
        fetch(tmp_path, f"{server.url}{path}")
    assert list(tmp_path.iterdir()) == []


def test_nobody_listening_is_a_mirror_that_cannot_be_reached(nobody, server, tmp_path, capsys):
    assert fetch(tmp_path, f"{nobody}/right", f"{server.url}/right").read_bytes() == GALAXIES
    assert f"{nobody}/right: cannot be reached" in capsys.readouterr().out


def test_a_cached_file_gone_bad_is_fetched_anew(server, tmp_path):
    (tmp_path / "Galaxy10.h5").write_bytes(b"spoilt")
    assert fetch(tmp_path, f"{server.url}/right").read_bytes() == GALAXIES


def test_a_bad_mirror_does_not_cost_a_file_that_was_there(server, tmp_path):
    old = tmp_path / "Galaxy10.h5"
    old.write_bytes(b"an older edition")
    with pytest.raises(ConnectionError):
        fetch(tmp_path, f"{server.url}/wrong")
    assert old.read_bytes() == b"an older edition"


def test_cache_is_the_environments_or_the_users(monkeypatch):
    monkeypatch.setenv("GALAXY10_CACHE", "/somewhere/else")
    assert download.default_cache() == "/somewhere/else"
    monkeypatch.delenv("GALAXY10_CACHE")
    assert "galaxy10" in download.default_cache()


def test_only_a_published_file_is_called_galaxy10(tmp_path, monkeypatch):
    path = tmp_path / "mine.h5"
    path.write_bytes(GALAXIES)
    assert download.source_of(path) == "file:mine.h5"
    for name in ("sdss", "decals"):
        monkeypatch.setattr(download, "PUBLISHED", {name: PUBLISHED._replace(sha256="0" * 64)})
        assert download.source_of(path) == "file:mine.h5"
        monkeypatch.setattr(download, "PUBLISHED", {name: PUBLISHED})
        assert download.source_of(path) == f"galaxy10-{name}"


# An environment in which no mirror can be reached, whatever the machine's network: a proxy nobody runs.
UNREACHABLE = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}


def test_source_real_fails_where_no_mirror_answers(tmp_path):
    done = run("q1_data.py", "--source", "real", "--cache", tmp_path / "c", "--out", tmp_path / "out", **UNREACHABLE)
    error = error_of(done)
    assert "no mirror gave Galaxy10.h5" in error
    assert all(url in error for url in download.PUBLISHED["sdss"].mirrors)
    assert not (tmp_path / "out").exists()
