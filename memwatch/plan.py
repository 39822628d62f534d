"""What a watchdog is to do, with every number that follows from the settings on this machine."""

import os
from collections.abc import Sequence
from typing import NamedTuple, Self

from . import config, lifecycle, restart, trip
from .board import default_folder
from .model import Patience, Watermarks
from .sampler import Sampler, least_limit


class Plan(NamedTuple):
    """
    What a watchdog is to do.

    Attributes:
        settings: What was asked for.
        command, program: What each worker runs, and the path of it.
        marks, patience: As the brake in each worker has them, for what the watchdog says of the machine.
        limits: What a worker is restarted for.
        rules: How it is ended then.
        board: The board's folder.
        logs: The folder of the logs.
    """

    settings: config.Settings
    command: tuple[str, ...]
    program: str
    marks: Watermarks
    patience: Patience
    limits: restart.Limits
    rules: lifecycle.Rules
    board: str
    logs: str

    @classmethod
    def of(cls, settings: config.Settings, command: Sequence[str], program: str) -> Self:
        """
        The plan for this machine, whose limits are read.

        Raises:
            SettingsError: Settings that do not fit it.
            ReadingError: Memory cannot be watched here.
        """
        with Sampler() as sampler:
            limit = least_limit(sampler)
        patience = config.patience(settings)
        given = config.limits_for(settings, limit)
        limits = restart.Limits(
            max_age=settings.max_age,
            max_rss=given.max_rss,
            min_available=given.min_available,
            grace=patience.grace,
            interval=settings.interval,
        )
        return cls(
            settings,
            tuple(command),
            program,
            config.marks_for(settings, limit),
            patience,
            limits,
            lifecycle.Rules(settings.drain_timeout, settings.stop_grace),
            os.path.abspath(settings.board or default_folder()),
            os.path.abspath(settings.logs),
        )

    @property
    def numbers(self) -> trip.Numbers:
        """What the native thread of a worker goes by."""
        return trip.numbers(self.marks, self.patience, self.limits.max_rss)

    def age_limit(self, number: int, life: lifecycle.Life) -> float | None:
        """How old worker *number* may become in this life, in seconds."""
        return restart.age_limit(self.limits, number, self.settings.workers, life.lives)
