"""The real Galaxy10: fetched once from its mirrors, checked, and kept."""

import os
from pathlib import Path
from typing import NamedTuple

import pooch
import requests


class Published(NamedTuple):
    """A published file: its name, size in bytes, SHA-256 and the addresses it can be had from."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]


PUBLISHED = {
    "sdss": Published(
        "Galaxy10.h5",
        210_234_548,
        "969a6b1cefcc36e09fffa86febd2f699a4aa19b837ba0427f01b0bc6ded458af",
        (
            "https://zenodo.org/records/10844811/files/Galaxy10.h5",
            "https://www.astro.utoronto.ca/~bovy/Galaxy10/Galaxy10.h5",
        ),
    ),
    "decals": Published(
        "Galaxy10_DECals.h5",
        2_735_267_419,
        "19aefc477c41bb7f77ff07599a6b82a038dc042f889a111b0d4d98bb755c1571",
        ("https://zenodo.org/records/10845026/files/Galaxy10_DECals.h5",),
    ),
}
TIMEOUT = (5, 30)  # seconds to connect, and to wait for the next bytes


def default_cache():
    """Return the folder that downloads are kept in: $GALAXY10_CACHE, or the user's own cache folder."""
    return os.environ.get("GALAXY10_CACHE") or str(pooch.os_cache("galaxy10"))


def fetch(cache, published):
    """Return the path of a published file in the folder `cache`, downloaded if it is not there whole already.

    A mirror that cannot be reached or serves other bytes is named on the way, and the next is tried; what
    arrives gets its name only once its SHA-256 is right. Raises ConnectionError when no mirror is left.
    """
    failures = []
    for url in published.mirrors:
        downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**20, timeout=TIMEOUT)
        try:
            return Path(pooch.retrieve(url, published.sha256, published.name, cache, downloader=downloader))
        except (requests.RequestException, ValueError) as error:
            failures.append(f"{url}: {reason(error)}")
            print(f"{failures[-1]}", flush=True)
    raise ConnectionError(f"no mirror gave {published.name} ({'; '.join(failures)})")


def reason(error):
    """Return in a few words why a download failed."""
    if isinstance(error, requests.HTTPError):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off before the end"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    if isinstance(error, ValueError) and "hash" in str(error):
        return "serves other bytes than the published file's (SHA-256 differs)"
    return " ".join(str(error).split())


def source_of(path):
    """Return what to call the data in a file: galaxy10-sdss or -decals for a published file, else file:NAME."""
    path = Path(path)
    for name, published in PUBLISHED.items():
        if path.stat().st_size == published.size and pooch.file_hash(str(path)) == published.sha256:
            return f"galaxy10-{name}"
    return f"file:{path.name}"
