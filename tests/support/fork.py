"""A forked child that answers."""

import os
from collections.abc import Callable


def in_child(deed: Callable[[], object]) -> str:
    """What *deed* says in a forked child."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = str(deed())
        except BaseException as error:
            answer = repr(error)
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        answer = said.read()
    os.waitpid(pid, 0)
    return answer
