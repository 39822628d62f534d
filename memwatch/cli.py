"""The command line: memwatch run | status | top | config | doctor | reap | leaks."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import cli_config, config
from .errors import MemwatchError
from .units import parse_duration

_EXAMPLE = "memwatch run -n 2 -- python train.py"

_EXIT_CODES = """\
exit codes:
  0    all workers have finished, or SIGTERM or SIGHUP asked to stop
  1    a worker was given up: it failed again and again
  2    it could not start: a setting, the command, the folder of the logs
  3    another watchdog watches that folder
  130  Ctrl-C
"""

_LEAKS_EXIT_CODES = """\
exit codes: the script's own, 128 + N where signal N ended it; and
  1    also where it ended with 0, but leaks
  2    also where it could not be started: the command, a setting, the file of the picture
"""


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.command:
        raise MemwatchError(f"run: what is to be run is missing: {_EXAMPLE}")
    settings = cli_config.load(arguments, os.environ)
    from . import cli_run

    return cli_run.main(settings, arguments.command, dry_run=arguments.dry_run)


def _board() -> str | None:
    """The board that a file or the environment names, as workers do that read the same; None: the user's own."""
    return config.Settings.load(os.environ, known={"board": config.BRAKE["board"]}).board


def _status(arguments: argparse.Namespace) -> int:
    from . import status

    return status.main(json=arguments.json, board=_board())


def _top(_arguments: argparse.Namespace) -> int:
    from .top import main as show

    return show(board=_board())


def _doctor(arguments: argparse.Namespace) -> int:
    from . import doctor

    return doctor.main(arguments.json)


def _reap(arguments: argparse.Namespace) -> int:
    from . import reaping

    return reaping.main(arguments.storage, arguments.study, arguments.unowned, arguments.dry_run)


def _leaks(arguments: argparse.Namespace) -> int:
    if not arguments.command:
        raise MemwatchError("leaks: what is to be run is missing: memwatch leaks -- python train.py")
    settings = config.Settings.load(os.environ)
    from . import cli_leaks

    return cli_leaks.main(settings, arguments.command, as_json=arguments.json, plot=arguments.plot)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Parser(argparse.ArgumentParser):
    """One line for a slip: the usage of `run` is thirty, and hides it."""

    def __init__(self, **keywords: Any) -> None:
        # An option that is added later must not change what a short form means.
        super().__init__(**keywords, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        from .model import escape

        self.exit(2, f"{self.prog}: {escape(message)}; `{self.prog} --help` says more\n")


class _Help(argparse.HelpFormatter):
    """Prose is wrapped, and a table stays one."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class _Version(argparse.Action):
    """The version is read when it is asked for: that takes 30 ms."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"memwatch {version('memwatch')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="memwatch", description="Keeps training workers from taking the machine down.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="starts workers, watches them, and restarts those that grow too large or too old",
        usage="memwatch run [options] [--] COMMAND ...",
        description=f"Starts workers, watches them, and restarts those that grow too large or too old, at the end of "
        f"their trial. As {_EXAMPLE}. Each Python among them gets the brake; nothing in the script need know of "
        "memwatch. Logs are logs/watchdog.log, logs/worker_safe_N.log and logs/events.jsonl.",
        epilog=_EXIT_CODES,
        formatter_class=_Help,
    )
    run.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    cli_config.add_options(run)
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what each worker runs")
    run.set_defaults(run=_run)
    status = commands.add_parser(
        "status",
        help="one look at the workers, their memory, and what is left",
        description="Says which workers run, their memory, age, trial and brakes, what memory is left and what binds, "
        "whether a watchdog is active, and how much can be taken before anything triggers.",
    )
    status.add_argument("--json", action="store_true", help="for programs: every number, in bytes and seconds")
    status.set_defaults(run=_status)
    top = commands.add_parser(
        "top",
        help="the same, live (needs rich: pip install 'memwatch[top]')",
        description="Shows what `memwatch status` says, live, with the recent history of each worker. q or Ctrl-C "
        "ends it.",
    )
    top.set_defaults(run=_top)
    listing = commands.add_parser(
        "config",
        help="every setting, its value, and where that comes from",
        usage="memwatch config [--json] [options of memwatch run]",
        description="Says every setting, its value, where that comes from (the default, a file and its key, a variable "
        "of the environment, an option), and where a settings file was looked for.",
    )
    listing.add_argument("--json", action="store_true", help="for programs: every number, in bytes and seconds")
    cli_config.add_options(listing)
    listing.set_defaults(run=cli_config.main)
    _add_doctor_and_reap(commands)
    _add_leaks(commands)
    return parser


def _add_leaks(commands: Any) -> None:
    leaks = commands.add_parser(
        "leaks",
        help="runs a script, and says whether it leaks, how fast, and what",
        usage="memwatch leaks [--json] [--plot FILE] [--] COMMAND ...",
        description="Runs a script to its end, with the brake, and then says whether it leaks, how fast, when which "
        "limit would be reached, and what grew. Nothing in the script need know of memwatch. As memwatch leaks -- "
        "python train.py. Where matplotlib is installed (pip install 'memwatch[plot]'), RSS and live bytes over time, "
        "with trials and brakes, are drawn to memwatch-leaks.png.",
        epilog=_LEAKS_EXIT_CODES,
        formatter_class=_Help,
    )
    leaks.add_argument(
        "--json", action="store_true", help="one line for programs on stdout; what the script says goes to stderr"
    )
    leaks.add_argument("--plot", metavar="FILE", help="of the picture: .png, .svg or .pdf (memwatch-leaks.png)")
    leaks.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what is run")
    leaks.set_defaults(run=_leaks)


def _add_doctor_and_reap(commands: Any) -> None:
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


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """
    The arguments. What `run` and `leaks` run begins after the first "--", or with the first word that is no option.

    What argparse does with "--" differs from one Python to the next; so it does not see it.
    """
    argv = list(argv)
    if argv[:1] not in (["run"], ["leaks"]) or "--" not in argv:
        return _parser().parse_args(argv)
    end = argv.index("--")
    arguments = _parser().parse_args(argv[:end])
    # A command that has begun before it has a "--" of its own.
    arguments.command = [*arguments.command, *(argv[end:] if arguments.command else argv[end + 1 :])]
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command: 0 done, 1 it found something bad, 2 it could not be done; `run` and `leaks` have more."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
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
