"""What the command lines of all scripts have in common."""

import argparse
import sys


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that shows defaults and examples as written, and puts an error into one line."""

    def __init__(self, description, examples):
        super().__init__(
            description=description,
            epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
            formatter_class=lambda prog: HelpFormatter(prog, max_help_position=30, width=100),
            allow_abbrev=False,
        )

    def error(self, message):
        """Raise ValueError, for `run` to print."""
        raise ValueError(f"{message} ({self.prog} --help lists the options)")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults after each option's help, where there is one; description and examples with their line breaks."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def positive_int(text):
    """argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return number


def positive_float(text):
    """argparse type: a finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return number


def seed(text):
    """argparse type: a whole number of at least 0."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return number


def add_out_and_seed(parser):
    """Add what every script takes: --out and --seed."""
    parser.add_argument("--out", default="artifacts", metavar="DIR", help="folder of all artifacts, read and written")
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="of all that is drawn at random")


def add_device(parser):
    """Add what every script that computes takes: --device."""
    choices = ("auto", "cpu", "cuda", "mps")
    parser.add_argument("--device", default="auto", choices=choices, help="auto: a GPU where there is one")


def add_training(parser, epochs, lr):
    """Add what every script that trains takes, with the assignment's numbers as defaults."""
    parser.add_argument("--epochs", type=positive_int, default=epochs, metavar="N", help="passes over the training set")
    parser.add_argument("--batch-size", type=positive_int, default=64, metavar="N", help="images a step")
    parser.add_argument("--lr", type=positive_float, default=lr, metavar="LR", help="Adam's learning rate")
    help = "bf16: train with bfloat16 products, faster where the processor has them"
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"), help=help)


def run(main):
    """Run `main`; turn what a user can put right into one line on stderr and exit status 2.

    `python -X dev SCRIPT` shows the traceback instead.
    """
    try:
        main()
    except (OSError, ValueError) as error:
        if sys.flags.dev_mode:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)


def one_line(error):
    """Return an exception's message without line breaks; for an OSError from the system, with its file."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
