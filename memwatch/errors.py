"""What memwatch raises. Each message names the value, the rule and what to do next."""


class MemwatchError(Exception):
    """Anything memwatch raises on purpose; the rest is a bug."""


class ProcessGone(MemwatchError, ProcessLookupError):
    """The process has ended; a zombie has too, for it holds no memory."""


class ReadingError(MemwatchError, OSError):
    """The kernel's numbers cannot be read here at all, so that watching would be blind."""


class BoardError(MemwatchError):
    """The shared board cannot be used; the message says whose it is, or what is wrong with it."""
