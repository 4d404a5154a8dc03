"""The command-line options and error handling that all scripts share."""

import argparse
import os
import shlex
import signal
import sys
from contextlib import ExitStack

from common.hardware.device import choose_device
from common.storage.atomic import exclusive_lock
from common.storage.streams import one_line, safe_streams

until_exit = ExitStack()  # locks that `start` takes and `run` releases at its end

# Substrings of torch's out-of-memory errors, which are RuntimeErrors of several kinds.
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults and examples, and reports errors in one line."""

    def __init__(self, description, examples):
        super().__init__(
            description=description,
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=lambda prog: HelpFormatter(prog, max_help_position=30, width=100),
            allow_abbrev=False,
        )

    def error(self, message):
        """Raise ValueError, which `run` prints."""
        raise ValueError(f"{message} ({self.prog} --help lists the options)")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show the default of each option that has one, and keep the line breaks of description and examples."""

    def _get_help_string(self, action):
        has_one = action.default is not None and action.default is not False  # 0 is one
        return super()._get_help_string(action) if has_one else action.help


def number(kind, is_valid, description):
    """Return an argparse type: a number of the type `kind` for which `is_valid` is true."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {description}")
        return value

    return parse


positive_int = number(int, lambda value: value > 0, "a whole number above 0")
positive_float = number(float, lambda value: 0 < value < float("inf"), "a finite number above 0")
fraction = number(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")
seed = number(int, lambda value: 0 <= value < 2**63, "a whole number from 0 to 2^63 - 1")  # as torch requires


def path(text):
    """argparse type: a path on this machine, with ~ for the home folder."""
    if "://" in text and not os.path.exists(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a URL, not a local file or folder")
    return os.path.expanduser(text)


def add_out_and_seed(parser):
    """Add --out and --seed, the options of every script."""
    add_out(parser)
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="random seed")


def add_out(parser):
    """Add --out, the option of every script that reads or writes artifacts."""
    help = "folder for all artifacts, input and output"
    parser.add_argument("--out", type=path, default="artifacts", metavar="DIR", help=help)


def add_device(parser):
    """Add --device, the option of every script that computes."""
    choices = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=choices, help="auto: a GPU if available")


def add_training(parser, epochs, lr):
    """Add the options of scripts that train, with the assignment's numbers as defaults."""
    parser.add_argument("--epochs", type=positive_int, default=epochs, metavar="N", help="passes over the training set")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="images per step")
    parser.add_argument("--lr", type=positive_float, default=lr, metavar="LR", help="Adam's learning rate")
    help = "resume an interrupted run after its last saved epoch; if-same: only if its settings match"
    choices = ("always", "if-same")
    parser.add_argument("--resume", nargs="?", const="always", choices=choices, metavar="if-same", help=help)
    help = "on a GPU, compute the same bits in every run, at some cost in speed; CPU runs always do"
    parser.add_argument("--deterministic", action="store_true", help=help)


def add_force(parser):
    """Add --force, the option of scripts that use trained networks."""
    help = "use networks even if they were trained on different data or a different split"
    parser.add_argument("--force", action="store_true", help=help)


def start(name, out, device="cpu", deterministic=False):
    """Return the torch.device called `device`, and lock {name}.* in `out` against other processes until `run` ends.

    Raises ValueError and OSError as `choose_device` and `exclusive_lock` do.
    """
    chosen = choose_device(device, deterministic)
    until_exit.enter_context(exclusive_lock(out, name))
    return chosen


def run(main, trains=False, resumes=None):
    """Run `main`; report errors that a user can correct in one line, with exit status 2; Ctrl-C exits with 130.

    trains: whether the script has --batch-size and --resume. resumes: the option that resumes the same command after
    Ctrl-C, "" if it needs none. `python -X dev SCRIPT` shows the traceback instead.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as after an error, nothing is left half written
    with safe_streams() as stdout:
        try:
            with until_exit:
                main()
            stdout.check()
        except KeyboardInterrupt:
            resumes = "--resume" if trains else resumes
            print("interrupted" if resumes is None else f"interrupted; to resume: {again(resumes)}", file=sys.stderr)
            sys.exit(130)
        except (OSError, ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            sentence = one_line(error)
            out_of_memory = isinstance(error, MemoryError) or any(words in sentence for words in OUT_OF_MEMORY)
            if sys.flags.dev_mode or (isinstance(error, RuntimeError) and not out_of_memory):
                raise
            if out_of_memory:
                lower = "--batch-size" if trains else "the number or size of images"
                sentence = f"out of memory: lower {lower} ({sentence})"
            print(f"error: {sentence}", file=sys.stderr)
            sys.exit(2)


def again(option):
    """Return this command with `option`, and, if make started it, that make can be rerun instead."""
    module = sys.modules["__main__"].__spec__  # of `python -m`
    words = [*(["-m", module.name] if module else sys.argv[:1]), *sys.argv[1:]]
    if option and not any(word.startswith(option) for word in words):
        words.append(option)
    return f"python {shlex.join(words)}{' (or rerun make)' if 'MAKELEVEL' in os.environ else ''}"
