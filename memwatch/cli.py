"""The command line: memwatch doctor | reap."""

import argparse
import os
import sys
from collections.abc import Sequence

from .errors import MemwatchError
from .units import parse_duration


def _doctor(arguments: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main(arguments.json)


def _reap(arguments: argparse.Namespace) -> int:
    from . import reaping

    return reaping.main(arguments.storage, arguments.study, arguments.unowned, arguments.dry_run)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
    reap = commands.add_parser(
        "reap",
        help="marks trials of Optuna failed whose workers have died",
        description="Marks trials of Optuna failed whose workers have died, and says why. Those of workers that live, "
        "or that cannot be seen from here, are left alone. A worker that goes on does the same at its next trial; this "
        "is for when none does.",
    )
    reap.add_argument(
        "--storage", required=True, metavar="URL", help="as Optuna takes it (sqlite:///study.db), or a journal's path"
    )
    reap.add_argument("--study", metavar="NAME", help="only this one")
    reap.add_argument(
        "--unowned",
        type=_duration,
        metavar="DURATION",
        help="fail also trials of which nobody is known to run them, once they have run for so long (as 2h)",
    )
    reap.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    reap.set_defaults(run=_reap)
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
