"""Download the published sets once from their mirrors, check and cache them."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

from common.storage.atomic import atomic_write, exclusive_lock
from common.storage.streams import one_line

import pooch
from requests import RequestException


class RemoteFile(NamedTuple):
    """A published file: name, size in bytes, SHA-256 and addresses."""

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


def cache_folder(cache=None):
    """Return the folder for downloads and reduced files: `cache`, $GALAXY10_CACHE or the user's cache folder.

    Raises ValueError if none is known.
    """
    try:
        return Path(cache or os.environ.get("GALAXY10_CACHE") or pooch.os_cache("galaxy10")).expanduser()
    except RuntimeError:  # neither $HOME nor an entry in passwd
        raise ValueError("there is no home folder for the cache: set one with --cache or $GALAXY10_CACHE") from None


def is_whole(path, published):
    """Return whether a file exists and has the published file's size and SHA-256."""
    return path.is_file() and path.stat().st_size == published.size and pooch.file_hash(str(path)) == published.sha256


def fetch(cache, published):
    """Return the path of a published file in the cache; download it unless a complete copy exists.

    cache: as for `cache_folder`. The mirrors are tried in turn; for the course's set, $GALAXY10_URL is tried first. If
    several processes need a file, one downloads it. Raises ConnectionError if no mirror has it, and another OSError,
    naming --cache, if the folder cannot be written.
    """
    path = cache_folder(cache) / published.name
    own = os.environ.get("GALAXY10_URL") if published.name == "Galaxy10.h5" else None
    try:
        if not is_whole(path, published):
            with exclusive_lock(path.parent, published.name, timeout=-1):
                if not is_whole(path, published):  # another process may have downloaded it meanwhile
                    download(path, published, [own, *published.mirrors] if own else published.mirrors)
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"{os.strerror(error.errno)}: {published.name} cannot be stored there; choose another --cache"
        raise OSError(error.errno, reason, str(path.parent)) from error
    return path


def download(path, published, mirrors):
    """Download a published file to `path` from the first mirror that has it; print a line for each that fails."""
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), chunk_size=2**20, timeout=TIMEOUT)
    for url in mirrors:
        try:
            with atomic_write(path) as [temporary]:
                downloader(url, temporary, None)
                if not is_whole(temporary, published):
                    raise ValueError("serves a different file (SHA-256 differs)")
            return
        except (RequestException, ValueError) as error:
            print(f"{url}: {one_line(error)}", flush=True)
    raise ConnectionError(f"{published.name} could not be downloaded from any mirror: docs/data.md says what to do")
