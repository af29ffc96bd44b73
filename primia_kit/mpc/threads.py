"""How many cores this process's kernels use: the kit's own small pool, since compiled loops release the GIL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from ..errors import KitError

_state = {"threads": 0, "pid": 0, "pool": None}
_here = threading.local()  # .inside: this thread is one of the pool's
_PIECES = 4  # a thread; more than one so that a core that something else uses holds up a piece, not the whole


def set_threads(count: int) -> None:
    """Use `count` threads for all kernels of this process, from 1 on. The start is one for each core it may use."""
    if count < 1:
        raise KitError(f"{count} threads can't compute: choose 1 or more.")
    _state.update(threads=count, pool=None)


def get_threads() -> int:
    """The number of threads that kernels use in this process."""
    if not _state["threads"]:
        _state["threads"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _state["threads"]


def spread(work: Callable[[int, int], object], count: int, grain: int = 1) -> None:
    """Call work(start, stop) until [0, count) is covered; pieces are multiples of `grain` and run side by side.

    `work` must release the GIL to gain anything, and its pieces must not write to the same place. Within a piece,
    `spread` calls its work at once: a pool that waits for itself would wait for ever.
    """
    threads = get_threads()
    pieces = max(1, min(-(-count // grain), threads * _PIECES))
    if threads == 1 or pieces == 1 or getattr(_here, "inside", False):
        if count:
            work(0, count)
        return
    step = -(-count // (pieces * grain)) * grain
    # Reading the results raises what a piece raised.
    list(_pool(threads).map(lambda start: work(start, min(start + step, count)), range(0, count, step)))


def _pool(threads: int) -> ThreadPoolExecutor:
    """This process's pool: after a fork the parent's threads aren't there, so a child makes its own."""
    if _state["pool"] is None or _state["pid"] != os.getpid():
        pool = ThreadPoolExecutor(threads, thread_name_prefix="primia-kernel", initializer=_enter)
        _state.update(pid=os.getpid(), pool=pool)
    return _state["pool"]


def _enter() -> None:
    _here.inside = True
