"""Who a process is, in one line of text that can be kept elsewhere, and what became of it."""

import errno
import os
from enum import Enum
from typing import NamedTuple, Self

from ._native import ffi, lib
from .errors import MemwatchError

_FORM = "machine/boot/pid namespace/pid/start time"


class Fate(Enum):
    """What became of a process."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"  # of another machine, or in another pid namespace of this one: it cannot be seen from here


class Identity(NamedTuple):
    """
    A process, for ever: no other one has had the same, on any machine.

    Attributes:
        machine: A hash of /etc/machine-id and the host's name.
        boot: /proc/sys/kernel/random/boot_id, which is another one after each boot.
        pid_namespace: Inode of its pid namespace.
        pid: As it is seen there.
        start_time: In clock ticks since boot.
    """

    machine: str
    boot: str
    pid_namespace: int
    pid: int
    start_time: int

    def __str__(self) -> str:
        return "/".join(map(str, self))

    @classmethod
    def mine(cls) -> Self:
        """This process; a forked child is another one."""
        owner, boot = ffi.new("struct mw_owner *"), ffi.new("char[37]")
        if code := lib.mw_self(owner, boot):
            name = errno.errorcode.get(-code, str(-code))
            raise MemwatchError(f"cannot tell who this process is ({name}): is /proc mounted?")
        return cls(_machine(), ffi.string(boot).decode(), owner.pid_namespace, owner.pid, owner.start_time)

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        What str() gave.

        Raises:
            ValueError: It is something else.
        """
        fields = text.split("/")
        if len(fields) != 5 or not all(it.isascii() and it.isdigit() for it in fields[2:]):
            raise ValueError(f"need {_FORM}, got {text!r}")
        machine, boot, *numbers = fields
        return cls(machine, boot, *map(int, numbers))

    def fate(self) -> Fate:
        """What became of it: one look at /proc."""
        me = Identity.mine()
        if self.machine != me.machine:
            return Fate.UNKNOWN
        if self.boot != me.boot:  # the machine was reset, and nothing outlives that
            return Fate.DEAD
        if self.pid_namespace != me.pid_namespace:
            return Fate.UNKNOWN
        if not 0 < self.pid < 2**31:  # none, and 0 would be whoever asks
            return Fate.DEAD
        process = ffi.new("struct mw_process *")
        code = lib.mw_process(b"/", self.pid, 0, process)
        if code == -errno.ESRCH or (not code and process.start_time != self.start_time):
            return Fate.DEAD
        return Fate.UNKNOWN if code else Fate.ALIVE


def _machine() -> str:
    """Containers that are made of one image share /etc/machine-id, or have none; they differ in the host's name."""
    from hashlib import blake2b

    try:
        with open("/etc/machine-id", "rb") as file:
            name = file.read(64).strip()
    except OSError:
        name = b""
    return blake2b(name + b"\0" + os.fsencode(os.uname().nodename), digest_size=8).hexdigest()
