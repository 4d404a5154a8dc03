"""The real Galaxy10 SDSS: fetched once from its mirrors, checked, and kept."""

import os
from pathlib import Path

import pooch
import requests

FILE_NAME = "Galaxy10.h5"
FILE_SIZE = 210_234_548  # bytes
SHA256 = "969a6b1cefcc36e09fffa86febd2f699a4aa19b837ba0427f01b0bc6ded458af"
MIRRORS = (
    "https://zenodo.org/records/10844811/files/Galaxy10.h5",
    "https://www.astro.utoronto.ca/~bovy/Galaxy10/Galaxy10.h5",
)
TIMEOUT = (5, 30)  # seconds to connect, and to wait for the next bytes


def default_cache():
    """Return the folder that downloads are kept in: $GALAXY10_CACHE, or the user's own cache folder."""
    return os.environ.get("GALAXY10_CACHE") or str(pooch.os_cache("galaxy10"))


def fetch(cache, mirrors=MIRRORS, sha256=SHA256):
    """Return the path of Galaxy10.h5 in the folder `cache`, downloaded if it is not there whole already.

    A mirror that cannot be reached or serves other bytes is named on the way, and the next is tried; what
    arrives gets its name only once its SHA-256 is right. Raises ConnectionError when no mirror is left.
    """
    failures = []
    for url in mirrors:
        downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**20, timeout=TIMEOUT)
        try:
            return Path(pooch.retrieve(url, known_hash=sha256, fname=FILE_NAME, path=cache, downloader=downloader))
        except (requests.RequestException, ValueError) as error:
            failures.append(f"{url}: {reason(error)}")
            print(f"{failures[-1]}", flush=True)
    raise ConnectionError(f"no mirror gave {FILE_NAME} ({'; '.join(failures)})")


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
    """Return what the data in a file are to be called: galaxy10-sdss if it is the published file, else file:NAME."""
    path = Path(path)
    if path.stat().st_size == FILE_SIZE and pooch.file_hash(str(path)) == SHA256:
        return "galaxy10-sdss"
    return f"file:{path.name}"
