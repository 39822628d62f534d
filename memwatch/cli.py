"""The command line: memwatch doctor."""

import argparse
import os
import sys
from collections.abc import Sequence

from .errors import MemwatchError


def _doctor(arguments: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main(arguments.json)


def _parser() -> argparse.ArgumentParser:
    from importlib.metadata import version

    parser = argparse.ArgumentParser(
        prog="memwatch", description="Keeps training workers from taking the machine down."
    )
    parser.add_argument("--version", action="version", version=f"memwatch {version('memwatch')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    doctor = commands.add_parser(
        "doctor",
        help="what this machine gives memwatch, and what to do about it",
        description="Says what this machine gives memwatch, what that means for a training worker, and what to "
        "do about it. Exits with 1 when something is bad.",
    )
    doctor.add_argument("--json", action="store_true", help="for programs: every number that was read, in bytes")
    doctor.set_defaults(run=_doctor)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command: 0 done, 1 it found something bad, 2 it could not be done."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except (MemwatchError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # The reader has seen enough (| head); let the interpreter's own flush not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"memwatch: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
