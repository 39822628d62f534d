"""
A PostgreSQL server for tests, on a unix socket only: Debian's package `postgresql`, without its cluster.

    with Postgres() as server:
        url = server.database()

postgres refuses to run as root; then it runs as the package's own user, in a folder that this user can enter.
"""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from support.wait import until

USER = "postgres"

# Who runs the tests may be killed, too: what it held open is closed then. "Fast" ends the clients' own processes.
GUARDIAN = """
folder=$1; shift
"$@" </dev/null >&2 & echo $!
read -r _
kill -INT $!; wait $!
rm -rf -- "$folder"
"""
DEADLINE = 30.0  # s, to start, and to end

# Nothing in it must outlive a power cut, nor leave segments in /dev/shm should it be killed.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "50",
}


def programs() -> Path | None:
    """The folder of the newest version's programs, which are on nobody's PATH; None where it is not installed."""
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    return max((it.parent for it in found), key=lambda it: float(it.parent.name), default=None)


def missing() -> str | None:
    """What a server cannot be run without, as the reason of a skip; None if it can."""
    if programs() is None:
        return "needs PostgreSQL: apt-get install postgresql (there is no /usr/lib/postgresql/*/bin/postgres)"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam(USER)
        except KeyError:
            return f"needs a user {USER!r} to run PostgreSQL as, for it refuses root: Debian's package makes one"
    return None


class Postgres:
    """
    A server that lives as long as the `with`, and not longer than this process, however that ends.

    Its folder, with all databases, goes with it. Who runs the tests is let in without a password; nobody else can
    enter the folder of the socket.

    Attributes:
        pid: Of the server.
    """

    def __init__(self) -> None:
        found = programs()
        if found is None:
            raise FileNotFoundError(missing())
        self._programs = found
        self._names = itertools.count(1)
        self._guardian: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def __enter__(self) -> Self:
        # Not pytest's folder: only root may enter that, and the path of a socket holds 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="memwatch-postgres-", dir="/tmp"))
        try:
            if os.geteuid() == 0:
                shutil.chown(self.folder, USER, pwd.getpwnam(USER).pw_gid)
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def database(self) -> str:
        """The URL of a new, empty database, for SQLAlchemy with psycopg 3."""
        name = f"test{next(self._names)}"
        self._run("createdb", f"--host={self.folder}", f"--username={USER}", name)
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"

    def _start(self) -> None:
        data = self.folder / "data"
        self._run(
            "initdb",
            *(f"--pgdata={data}", f"--username={USER}", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"),
        )
        settings = SETTINGS | {"unix_socket_directories": str(self.folder)}
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._log = self.folder / "log"
        with self._log.open("wb") as file:
            self._guardian = subprocess.Popen(
                self._as_user(
                    "sh", "-c", GUARDIAN, "sh", self.folder, self._programs / "postgres", "-D", data, *arguments
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=self.folder,
                # Ctrl-C is for who runs the tests: the server ends after what uses it.
                start_new_session=True,
            )
        assert self._guardian.stdout is not None
        self.pid = int(self._guardian.stdout.readline())
        try:
            until(self._answers, seconds=DEADLINE, what="that PostgreSQL answers")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self._log.read_text()}") from None

    def _answers(self) -> bool:
        asked = [self._programs / "pg_isready", "--quiet", f"--host={self.folder}", f"--username={USER}"]
        return subprocess.run(asked, check=False).returncode == 0

    def _as_user(self, *words: str | Path) -> list[str]:
        """As one that postgres accepts."""
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if os.geteuid() == 0 else []
        return [*user, *map(str, words)]

    def _run(self, program: str, *arguments: str) -> None:
        command = self._as_user(self._programs / program, *arguments)
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AssertionError(f"{program} has ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def _end(self) -> None:
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            assert guardian.stdin is not None
            assert guardian.stdout is not None
            guardian.stdin.close()
            try:
                guardian.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                os.kill(self.pid, signal.SIGQUIT)  # "immediate"
                guardian.wait(DEADLINE)
            guardian.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
