"""
Arms memwatch in a Python worker of `memwatch run`, before its script begins.

Python finds it because the watchdog put this folder first on PYTHONPATH. Of that nothing is left in os.environ, nor on
sys.path, so Pythons that the worker starts are as they always were. Then the user's own sitecustomize is run, if there
is one.

It loads the C extension and nothing else of memwatch: memwatch.start() takes 45 ms in a bare Python (dataclasses,
enums, threading), this a few. Before a trial there is nothing to brake. The native thread looks, publishes and watches
the limit of RSS; guard() and trial() start the brake in its place.

What fails here is one line on stderr, and the script runs, watched from outside. Each Python meets this file, so it
must parse on 3.6.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(HERE)

TYPE_CHECKING = False  # without typing's 2 ms
if TYPE_CHECKING:
    from typing import Any

STALE_NS = 60 * 10**9  # as board.py has it
OPTUNA = 4  # what memwatch.integrations needs


def tell(message: str) -> None:
    try:
        sys.stderr.write(f"memwatch: {message}\n")
        sys.stderr.flush()
    except Exception:  # closed, full, or none at all
        pass


def clean() -> "dict[str, str]":
    """Takes what led here out again. What stood there for us alone."""
    environ = os.environ
    now, former = environ.get("PYTHONPATH"), environ.pop("MEMWATCH_PYTHONPATH", None)
    if now == with_ours(former):
        left = former
    else:  # a script in between has added to it
        parts = [it for it in (now or "").split(os.pathsep) if not it or os.path.abspath(it) != HERE]
        left = os.pathsep.join(parts) or None
    if left is None:
        environ.pop("PYTHONPATH", None)
    else:
        environ["PYTHONPATH"] = left
    sys.path[:] = [it for it in sys.path if it != HERE]
    sys.path_importer_cache.pop(HERE, None)
    return {name: environ.pop(name) for name in ("MEMWATCH_WORKER", "MEMWATCH_ARM") if name in environ}


def with_ours(former: "str | None") -> str:
    """PYTHONPATH with this folder first; inject.py makes the same."""
    return HERE + os.pathsep + former if former else HERE


def load_native(backend: str) -> "Any":
    """memwatch._native, from its file: `import memwatch` finds it there later. *backend*: the folder of cffi's."""
    if sys.implementation.name != "cpython" or sys.version_info < (3, 11):
        name, version = sys.implementation.name, sys.version_info
        raise ImportError(f"it needs CPython 3.11 or later, and this is {name} {version[0]}.{version[1]}")
    if "memwatch._native" in sys.modules:
        return sys.modules["memwatch._native"]
    try:
        import _cffi_backend  # noqa: F401 - the worker's own, should it use cffi
    except ImportError:
        load_extension("_cffi_backend", backend)
    return load_extension("memwatch._native", PACKAGE)


def load_extension(name: str, folder: str) -> "Any":
    # What importlib.machinery calls them, without its 1 ms.
    from _frozen_importlib import ModuleSpec, module_from_spec
    from _frozen_importlib_external import ExtensionFileLoader
    from _imp import extension_suffixes

    for suffix in extension_suffixes():
        path = os.path.join(folder, name.rpartition(".")[2] + suffix)
        if os.path.exists(path):
            spec = ModuleSpec(name, ExtensionFileLoader(name, path), origin=path)
            spec.has_location = True
            module = module_from_spec(spec)
            sys.modules[name] = module
            try:
                spec.loader.exec_module(module)  # type: ignore[union-attr]
            except BaseException:
                del sys.modules[name]
                raise
            return module
    raise ImportError(f"there is no {name} for this Python in {folder}")


class Worker:
    """
    What this process is to its watchdog, until it ends. memwatch finds it as memwatch._native.worker.

    Attributes:
        number: The worker's, from 1.
        pid: Of this process; a forked child has another, and is no worker of that number.
        watches: The native thread runs, and is this one's and not the brake's.
    """

    def __init__(self, native: "Any", said: "dict[str, str]") -> None:
        self.said = said
        self.number = int(said["MEMWATCH_WORKER"])
        self.pid = os.getpid()
        self.watches = False
        self._ffi, self._lib = native.ffi, native.lib
        self._board = native.ffi.NULL
        self._owner = native.ffi.new("struct mw_owner *")
        self._slot = native.ffi.new("uint32_t *")
        self._plan, self._handle = self._make_plan(), native.ffi.new("struct mw_brake **")

    def _make_plan(self) -> "Any":
        plan = self._ffi.new("struct mw_plan *")
        self._root = plan.root = self._ffi.new("char[]", b"/")  # kept: C has its address alone
        for word in self.said["MEMWATCH_ARM"].partition("\n")[0].split():
            name, _, value = word.partition("=")
            group, _, field = name.rpartition(".")
            setattr(plan.numbers if group else plan, field, int(value))
        return plan

    def watch(self) -> None:
        """From here on this process is seen on the board. Twice is fine."""
        if self.watches or os.getpid() != self.pid:
            return
        self._claim()
        self._need(self._lib.mw_brake_start(self._plan, self._handle), "its thread cannot be started")
        self.watches = True
        code = self._lib.mw_brake_board(self._handle[0], self._board, self._slot[0], self._owner)
        self._need(code, "its thread does not take the board")

    def hand_over(self) -> None:
        """The native thread is the brake's from here on. The slot stays ours, and what stands in it."""
        if self.watches and os.getpid() == self.pid:
            self.watches = False
            self._lib.mw_brake_stop(self._handle[0])

    def leave(self) -> None:
        """The end: the thread is joined, before the interpreter is taken down, and the slot is free."""
        if os.getpid() != self.pid:
            return
        self.hand_over()
        if self._board:
            self._lib.mw_slot_release(self._board, self._slot[0], self._owner)

    def drain(self) -> int:
        """An MW_DRAIN_*, while the thread is ours."""
        if not self.watches or os.getpid() != self.pid:
            return 0
        words = self._lib.mw_brake_words(self._handle[0])
        return int(words[self._lib.MW_WORD_DRAIN]) if words else 0

    def _claim(self) -> None:
        ffi, lib = self._ffi, self._lib
        boot = ffi.new("char[37]")
        self._need(lib.mw_self(self._owner, boot), "cannot tell who this process is")
        if not self._board or lib.mw_board_check(self._board):
            folder, out = os.path.abspath(os.environ["MEMWATCH_BOARD"]), ffi.new("struct mw_board **")
            code = lib.mw_board_open(os.fsencode(folder), boot, lib.MW_BOARD_CREATE | lib.MW_BOARD_REPLACE, out)
            self._need(code, f"the board in {folder!a} cannot be opened")
            lib.mw_board_close(self._board)
            self._board = out[0]
        self._name_groups()
        code = lib.mw_slot_claim(self._board, b"/", self._owner, STALE_NS, self._slot)
        if code != -17:  # EEXIST: it was ours all the time, and so is what stands there
            self._need(code, "no slot of the board can be claimed")
            work = ffi.new("struct mw_work *")
            work.trial_start_ns = work.live_time_ns = -1
            work.trial_rss = work.budget = work.filled = work.live_bytes = work.kept_bytes = 2**64 - 1
            work.worker = self.number
            self._need(
                lib.mw_slot_set_work(self._board, self._slot[0], self._owner, work), "its slot cannot be written"
            )
        lib.mw_slot_lock(self._board, self._slot[0])

    def _name_groups(self) -> None:
        """So that who looks for a victim knows which limits this process is under. Without them it lives, too."""
        ffi, lib, owner = self._ffi, self._lib, self._owner
        out = ffi.new("struct mw_sampler **")
        if lib.mw_sampler_open(b"/", 0, 0, out):
            return
        group = ffi.new("struct mw_group *")
        while owner.groups < lib.MW_SLOT_GROUPS and not lib.mw_sampler_group(out[0], owner.groups + 1, group):
            owner.group_dev[owner.groups], owner.group_ino[owner.groups] = group.dev, group.ino
            owner.groups += 1
        lib.mw_sampler_close(out[0])

    @staticmethod
    def _need(code: int, what: str) -> None:
        if code:
            raise OSError(-code, f"{what}: {os.strerror(-code)}")


class Finder:
    """Finds memwatch where its C is from, for they are to be of one version; and sees Optuna come."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name == "memwatch":
            from importlib.util import spec_from_file_location

            return spec_from_file_location(
                name, os.path.join(PACKAGE, "__init__.py"), submodule_search_locations=[PACKAGE]
            )
        if name != "optuna":
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    self._guard_once_loaded(spec.loader)
                    return spec
        return None

    def _guard_once_loaded(self, loader: "Any") -> None:
        execute = loader.exec_module

        def exec_module(module: "Any") -> None:
            del loader.exec_module
            execute(module)
            try:
                if int(module.__version__.partition(".")[0]) < OPTUNA:
                    raise ImportError(f"it needs Optuna {OPTUNA} or later, and this is {module.__version__}")
                from memwatch import brake
                from memwatch.integrations import _studies

                _studies.guard_all(brake.is_ready)
            except Exception as error:
                tell(f"Optuna's trials are not guarded ({type(error).__name__}: {error})")

        try:
            loader.exec_module = exec_module
        except AttributeError as error:
            tell(f"Optuna's trials are not guarded ({error})")


def follow_exec(worker: Worker) -> None:
    """A worker that becomes another program stays that worker: the new one is armed as this was, if it is a Python."""
    real = os.execve

    def execve(path: "Any", args: "Any", env: "Any") -> None:
        """Execute the path with arguments and environment, replacing the current process."""
        if os.getpid() != worker.pid:
            real(path, args, env)
        watched = worker.watches
        worker.leave()
        try:
            real(path, args, armed(worker, env))
        finally:  # it has failed
            if watched:
                worker.watch()

    def execv(path: "Any", args: "Any") -> None:
        """Execute the path with arguments, replacing the current process."""
        execve(path, args, os.environ)

    os.execve, os.execv = execve, execv  # type: ignore[assignment]


def armed(worker: Worker, env: "Any") -> "Any":
    """The environment in which a Python is this worker; an environment that was cleaned stays as it is."""
    if "MEMWATCH_BOARD" not in env:
        return env
    former = env.get("PYTHONPATH")
    ours = {"PYTHONPATH": with_ours(former)}
    ours.update({} if former is None else {"MEMWATCH_PYTHONPATH": former})
    return dict(env, **ours, **worker.said)


def arm() -> None:
    said = clean()
    if len(said) < 2:
        return
    _, backend, *leaks = said["MEMWATCH_ARM"].split("\n")
    native = load_native(backend)
    worker = Worker(native, said)
    try:
        worker.watch()
    except Exception:
        worker.leave()
        raise
    native.worker = worker
    import atexit

    atexit.register(worker.leave)
    follow_exec(worker)
    sys.meta_path.insert(0, Finder())
    if leaks:  # of `memwatch leaks`: a folder
        from memwatch import leaks_inside

        leaks_inside.begin(leaks[0])


try:
    arm()
except Exception as error:
    tell(f"this Python is not armed ({type(error).__name__}: {error}); the script runs, watched from outside")

# The user's own, or an ImportError of this very name, on which Python goes on: then there is none.
del sys.modules["sitecustomize"]
import sitecustomize  # type: ignore[import-not-found]  # noqa: E402, F401
