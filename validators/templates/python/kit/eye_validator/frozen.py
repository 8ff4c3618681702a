"""Takes clocks and chance away. In a module both would give what they gave when it was built, over and over, and the same
event must get the same verdict whenever it is judged. So whoever asks is told what to use instead.
"""

import datetime
import os
import random
import secrets
import sys
import time
import uuid

_TIME = "a validator has no clock; use `event.received_at` (when the gateway received the event) or `event.timestamp`"
_CHANCE = "a validator has no randomness; make what must differ out of `event.id`, which is another one for each event"


class Frozen(RuntimeError):
    """Something was asked for that a validator does not have."""


def _refuse(name, why):
    def refused(*_arguments, **_named):
        raise Frozen(f"{name}: {why}")

    refused.__name__ = name.rsplit(".", 1)[-1]
    return refused


def _only_with(module, name, count):
    """A function that asks the clock when its last argument is left out."""
    given = getattr(module, name)

    def asked(*arguments):
        if len(arguments) < count or arguments[count - 1] is None:
            raise Frozen(f"{module.__name__}.{name}: {_TIME}")
        return given(*arguments)

    return asked


class _NoClock(datetime.datetime):
    now = classmethod(_refuse("datetime.now", _TIME))
    utcnow = classmethod(_refuse("datetime.utcnow", _TIME))
    today = classmethod(_refuse("datetime.today", _TIME))


class _NoToday(datetime.date):
    today = classmethod(_refuse("date.today", _TIME))


class _Seeded(random.Random):
    """Numbers that a seed decides are the same for the same seed, so they are let be."""

    def __init__(self, seed=None):
        if seed is None:
            raise Frozen(f"random.Random: {_CHANCE}")
        super().__init__(seed)

    def seed(self, a=None, version=2):
        if a is None:
            raise Frozen(f"random.seed: {_CHANCE}")
        super().seed(a, version)


def take_away():
    """Has everything throw that asks a clock or for chance. Does nothing outside of a module, where tests need clocks."""
    if sys.platform != "wasi":
        return
    for name in (
        "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
        "process_time_ns", "thread_time", "thread_time_ns", "sleep", "clock_gettime", "clock_gettime_ns",
    ):
        if hasattr(time, name):
            setattr(time, name, _refuse(f"time.{name}", _TIME))
    for name, count in (("gmtime", 1), ("localtime", 1), ("ctime", 1), ("asctime", 1), ("strftime", 2)):
        setattr(time, name, _only_with(time, name, count))
    datetime.datetime, datetime.date = _NoClock, _NoToday
    os.urandom = random._urandom = _refuse("os.urandom", _CHANCE)
    if hasattr(os, "getrandom"):
        os.getrandom = _refuse("os.getrandom", _CHANCE)
    for module in (random, secrets):
        for name in module.__all__:
            given = getattr(module, name)
            if callable(given) and not isinstance(given, type) and name != "compare_digest":
                setattr(module, name, _refuse(f"{module.__name__}.{name}", _CHANCE))
    random.Random = _Seeded
    random.SystemRandom = secrets.SystemRandom = _refuse("random.SystemRandom", _CHANCE)
    for name in ("uuid1", "uuid4", "uuid6", "uuid7", "uuid8"):
        if hasattr(uuid, name):
            setattr(uuid, name, _refuse(f"uuid.{name}", _CHANCE))
