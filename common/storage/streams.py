"""stdout and stderr, which may go away or lack characters, and what can be printed there in one line."""

import errno
import os
import re
import sys
from contextlib import contextmanager, redirect_stderr, redirect_stdout


class Stream:
    """stdout or stderr. Once it cannot be written, as when `head` has read enough, the rest is dropped.

    So a run completes its files all the same. Characters that the stream's encoding lacks are escaped.
    """

    def __init__(self, stream):
        self.stream = stream or open(os.devnull, "w")  # noqa: SIM115 (the shell's `>&-` leaves none)
        self.lost = None  # the OSError that says why
        if hasattr(self.stream, "reconfigure"):  # as every stream of a terminal, a file or a pipe
            self.stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        """Write text, if it can be written."""
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self):
        """Flush what was written, if it can be written."""
        self.attempt(self.stream.flush)

    def attempt(self, function, *args):
        """Call function(*args); when that fails, send this and all later output to os.devnull."""
        try:
            function(*args)
        except OSError as error:
            self.lost = error
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())

    def check(self):
        """Raise OSError if not all could be written, unless it is that nobody reads it."""
        self.flush()
        if self.lost and self.lost.errno != errno.EPIPE:
            raise OSError(self.lost.errno, self.lost.strerror, "standard output")

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextmanager
def safe_streams():
    """Make stdout and stderr a Stream each inside the block; give the first."""
    with redirect_stdout(Stream(sys.stdout)) as stdout, redirect_stderr(Stream(sys.stderr)) as stderr:
        try:
            yield stdout
        finally:
            stdout.flush()
            stderr.flush()


def printable(text):
    """Return a path or text with escapes for what UTF-8 or one line cannot hold: other encodings, control characters.

    A name with them is printed and saved like this; files are opened by the true one.
    """

    def escape(match):
        code = ord(match[0])
        # Bytes of another encoding, as Python has them in names.
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else match[0].encode("unicode_escape").decode()

    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", escape, str(text))


def one_line(error):
    """Return an exception's message without line breaks; for an OSError from the system, with its file."""
    if isinstance(error, OSError) and error.filename is not None:
        return printable(f"{error.filename}: {error.strerror}")
    return printable(" ".join(str(error).split()))


def say(path, sentence):
    """Print a line about a file on stderr, in one call: several threads may."""
    sys.stderr.write(f"{printable(path)}: {sentence}\n")
