"""The real Galaxy10: downloaded once from its mirrors, checked and cached."""

import os
import time
from pathlib import Path
from typing import NamedTuple

from common.storage.atomic import atomic_write, exclusive_lock

import pooch
import requests
import urllib3
from tqdm import tqdm


class RemoteFile(NamedTuple):
    """A published file: its name, size in bytes, SHA-256 and its mirrors' addresses."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]


PUBLISHED = {
    "sdss": RemoteFile(
        "Galaxy10.h5",
        210_234_548,
        "969a6b1cefcc36e09fffa86febd2f699a4aa19b837ba0427f01b0bc6ded458af",
        (
            "https://zenodo.org/records/10844811/files/Galaxy10.h5",
            "https://www.astro.utoronto.ca/~bovy/Galaxy10/Galaxy10.h5",
            "https://www.astro.utoronto.ca/~hleung/shared/Galaxy10/Galaxy10.h5",
        ),
    ),
    "decals": RemoteFile(
        "Galaxy10_DECals.h5",
        2_735_267_419,
        "19aefc477c41bb7f77ff07599a6b82a038dc042f889a111b0d4d98bb755c1571",
        ("https://zenodo.org/records/10845026/files/Galaxy10_DECals.h5",),
    ),
}
TIMEOUT = (5, 30)  # seconds to connect, and to wait for the next bytes
PATIENCE, SLOWEST = 60, 5_000  # seconds after which a mirror must have sent so many bytes for each


def default_cache():
    """Return the folder for downloads: $GALAXY10_CACHE, or the user's own cache folder."""
    return os.environ.get("GALAXY10_CACHE") or str(pooch.os_cache("galaxy10"))


def fetch(cache, published):
    """Return the path of a published file in the folder `cache`; download it unless it is there and complete.

    A mirror that cannot be reached, stalls or serves other bytes is named, and the next one is tried; a download
    gets its name only after its SHA-256 has been checked. Of several processes one downloads, and the
    others wait for it. Raises ConnectionError when no mirror is left, and another OSError, naming --cache, when the
    folder cannot be read or written.
    """
    path = Path(cache) / published.name
    try:
        return path if is_whole(path, published) else fetch_locked(path, published)
    except ConnectionError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{os.strerror(error.errno)}: {published.name} cannot be stored there; choose another --cache"
        raise OSError(error.errno, reason, str(cache)) from error


def fetch_locked(path, published):
    """Download to `path` as the only process that does so, or wait for the one that does; return `path`."""
    try:
        with exclusive_lock(path.parent, published.name):
            return fetch_alone(path, published)
    except BlockingIOError:
        print(f"Another process is downloading {published.name}: waiting for it.", flush=True)
    with exclusive_lock(path.parent, published.name, timeout=-1):
        return fetch_alone(path, published)


def is_whole(path, published):
    """Return whether a file exists and has the published file's size and SHA-256."""
    return path.is_file() and path.stat().st_size == published.size and pooch.file_hash(str(path)) == published.sha256


def fetch_alone(path, published):
    """Download to `path`, unless another process has just done so, from the first mirror that has the file.

    Returns `path`; raises ConnectionError when no mirror has it.
    """
    if is_whole(path, published):
        return path
    failures, own = [], os.environ.get("GALAXY10_URL")  # your own mirror, of the set that courses use
    mirrors = (own, *published.mirrors) if own and published.name == "Galaxy10.h5" else published.mirrors
    for url in mirrors:
        try:
            with atomic_write(path) as [temporary]:
                receive(url, temporary, published)
            return path
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            failures.append(f"{url}: {reason(error)}")
            print(failures[-1], flush=True)
    raise ConnectionError(f"{published.name} could not be downloaded from any mirror ({'; '.join(failures)})")


def receive(url, path, published):
    """Write what a mirror serves to `path`. Raises ValueError when it is not, or cannot become, the published file."""
    headers = {"Accept-Encoding": "identity"}
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        response.raise_for_status()
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise ValueError("serves a web page instead of the file")
        bar = tqdm(total=published.size, unit="B", unit_scale=True, desc=published.name, leave=False, disable=None)
        received, since, at_least = 0, time.monotonic(), SLOWEST * PATIENCE
        with open(path, "wb") as file, bar:
            while block := response.raw.read1(2**20):  # as many as have come: a slow mirror is noticed
                file.write(block)
                received += len(block)
                bar.update(len(block))
                if received > published.size:
                    raise ValueError(f"sends more than the file's {published.size:,} bytes")
                if time.monotonic() - since > PATIENCE:
                    if received < at_least:
                        raise ValueError(f"sends less than {SLOWEST * PATIENCE:,} bytes in {PATIENCE} seconds")
                    since, at_least = time.monotonic(), received + SLOWEST * PATIENCE
    if received < published.size:
        raise ValueError(f"ended the connection after {received:,} of {published.size:,} bytes")
    if pooch.file_hash(str(path)) != published.sha256:
        raise ValueError("serves other bytes than the published file's (SHA-256 differs)")


def reason(error):
    """Return in a few words why a download failed."""
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.TooManyRedirects):
        return "redirects in a circle"
    if isinstance(error, requests.exceptions.InvalidSchema):
        return "redirects to an address that is not http"
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return "no answer in time"
    if isinstance(error, urllib3.exceptions.ProtocolError):
        return "the connection ended too early"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return " ".join(str(error).split())
