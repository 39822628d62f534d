"""What memwatch raises. Each message names the value, the rule and what to do next."""


class MemwatchError(Exception):
    """Anything memwatch raises on purpose; the rest is a bug."""


class ProcessGone(MemwatchError, ProcessLookupError):
    """The process has ended; a zombie has too, for it holds no memory."""


class ReadingError(MemwatchError, OSError):
    """The kernel's numbers cannot be read here at all, so that watching would be blind."""


class BoardError(MemwatchError):
    """The shared board cannot be used; the message says whose it is, or what is wrong with it."""


class SettingsError(MemwatchError, ValueError):
    """A setting that cannot be meant; the message names the value, where it came from, the rule and what to do."""


class EmergencyBrake(MemwatchError, MemoryError):
    """
    A trial was ended, so that the machine, or the cgroup, does not run out of memory.

    By now the trial's memory is given back as far as it could be. All state is in *args*, so that it survives
    pickling and copying; str() is the message alone. Bytes and seconds; None is unknown.

    Attributes:
        label: The trial, as "Trial #42".
        detail: Where it was, as "split 3/5".
        available: Headroom when the trial was told to end.
        threshold: The watermark it fell below.
        freed: What came back.
        seconds: From when the trial was told until its memory was back.
        parameters: What the trial was called with, shortened.
        rss: Resident memory of the worker when the trial was told to end.
        peak: The most of it that the trial was seen to have.
        asynchronous: It was raised between two lines and not at a safe point: a lock of Python's own making may be held
            since, so that the worker is best started anew.
    """

    def __init__(  # noqa: PLR0917 - pickling calls it with args, by place
        self,
        message: str,
        label: str = "",
        detail: str = "",
        available: int | None = None,
        threshold: int | None = None,
        freed: int | None = None,
        seconds: float | None = None,
        parameters: str = "",
        rss: int | None = None,
        peak: int | None = None,
        asynchronous: bool = False,
    ) -> None:
        super().__init__(
            message, label, detail, available, threshold, freed, seconds, parameters, rss, peak, asynchronous
        )

    def __str__(self) -> str:
        return str(self.args[0])

    def __repr__(self) -> str:
        """Without the numbers: frameworks log it as the reason of a failure."""
        return f"{type(self).__name__}({self.args[0]!r})"

    @property
    def label(self) -> str:
        """The trial, as "Trial #42"."""
        return self.args[1]  # type: ignore[no-any-return]

    @property
    def detail(self) -> str:
        """Where it was, as "split 3/5"; empty where it did not say."""
        return self.args[2]  # type: ignore[no-any-return]

    @property
    def available(self) -> int | None:
        """Headroom when the trial was told to end, in bytes."""
        return self.args[3]  # type: ignore[no-any-return]

    @property
    def threshold(self) -> int | None:
        """The watermark it fell below, in bytes."""
        return self.args[4]  # type: ignore[no-any-return]

    @property
    def freed(self) -> int | None:
        """What came back, in bytes."""
        return self.args[5]  # type: ignore[no-any-return]

    @property
    def seconds(self) -> float | None:
        """From when the trial was told until its memory was back."""
        return self.args[6]  # type: ignore[no-any-return]

    @property
    def parameters(self) -> str:
        """What the trial was called with, shortened."""
        return self.args[7]  # type: ignore[no-any-return]

    @property
    def rss(self) -> int | None:
        """Resident memory of the worker when the trial was told to end, in bytes."""
        return self.args[8]  # type: ignore[no-any-return]

    @property
    def peak(self) -> int | None:
        """The most resident memory that the trial was seen to have, in bytes."""
        return self.args[9]  # type: ignore[no-any-return]

    @property
    def asynchronous(self) -> bool:
        """Whether it was raised between two lines and not at a safe point."""
        return self.args[10]  # type: ignore[no-any-return]


class NotAdmitted(MemwatchError, MemoryError):
    """A trial was not begun: memory did not come back in time, or could not be read; the message says which."""


class DoesNotFit(MemwatchError, MemoryError):
    """
    Something was not made, for it could not become full: memory would be short before. Nothing was allocated.

    All state is in *args*, so that it survives pickling. Bytes.

    Attributes:
        needed: What it would take.
        available: Headroom.
        kept: Of it, what is left for the brake, and for what is promised to others in this process.
        capacity: The largest one that would fit; 0: none.
    """

    def __init__(self, message: str, needed: int = 0, available: int = 0, kept: int = 0, capacity: int = 0) -> None:
        super().__init__(message, needed, available, kept, capacity)
        self.needed, self.available, self.kept, self.capacity = needed, available, kept, capacity

    def __str__(self) -> str:
        return str(self.args[0])


class TooManyBrakes(MemwatchError):
    """The worker shall stop: so many of its trials in a row were braked that the next one would be, too."""
