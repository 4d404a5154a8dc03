"""Printing: streams that may be closed or lack characters, and messages on one line."""

import errno
import os
import re
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout


class Stream:
    """Wrap stdout or stderr: if writing fails, for example because `head` has exited, further output is dropped.

    The run still completes its files. Characters that the stream's encoding lacks are escaped.
    """

    def __init__(self, stream):
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 (the shell's `>&-` leaves none)
        self.lost = None  # the first OSError
        if hasattr(self.stream, "reconfigure"):  # the streams of terminals, files and pipes
            self.stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        """Write text, if possible."""
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self):
        """Flush, if possible."""
        self.attempt(self.stream.flush)

    def attempt(self, function, *args):
        """Call function(*args); if that fails, redirect this stream to os.devnull."""
        try:
            function(*args)
        except OSError as error:
            self.lost = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def check(self):
        """Flush. Raises OSError if any output was lost, unless its reader has exited."""
        self.flush()
        if self.lost and self.lost.errno != errno.EPIPE:
            raise OSError(self.lost.errno, self.lost.strerror, "standard output")

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextmanager
def safe_streams():
    """Wrap stdout and stderr in Streams inside the with block; yield the first."""
    with redirect_stdout(Stream(sys.stdout)) as stdout, redirect_stderr(Stream(sys.stderr)) as stderr:
        try:
            yield stdout
        finally:
            stdout.flush()
            stderr.flush()


def printable(text):
    """Return a path or text with control characters and bytes that are not UTF-8 escaped.

    Names are printed and saved in this form; files are opened with their real names.
    """

    def escape(match):
        code = ord(match[0])
        # Python represents bytes that are not UTF-8 as lone surrogates.
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else match[0].encode("unicode_escape").decode()

    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", escape, str(text))


def one_line(error):
    """Return an exception's message without line breaks; for an OSError from the system, with the file name."""
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename}: {error.strerror}")
    return printable(" ".join(str(error).split()))


def say(path, sentence):
    """Print a line about a file on stderr, in a single call because several threads may print."""
    sys.stderr.write(f"{printable(path)}: {sentence}\n")
