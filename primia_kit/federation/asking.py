"""How the server asks sites that live in its own process: several at a time, and whatever happens to one."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import torch

from ..errors import KitError
from .device import Device

_log = logging.getLogger(__name__)


class Absent(Exception):
    """A site gives no answer; why."""


class Asking:
    """Asks every site the same question and gathers the answers.

    On a CPU as many sites compute at a time as torch has threads, each on a single one: small networks gain
    little from several threads, and lose much where another program has the other core. So what a site
    computes doesn't depend on the number of cores either.

    Args:
        device: that sites compute on.
        side_by_side: whether sites may compute at the same time (not where they draw from one generator).
    """

    def __init__(self, device: Device, *, side_by_side: bool):
        self.device = device
        threads = torch.get_num_threads()
        self._pool = None
        if side_by_side and device.kind == "cpu" and threads > 1:
            self._pool = ThreadPoolExecutor(threads, "site", initializer=lambda: torch.set_num_threads(1))

    def __call__(
        self, questions: Mapping[str, Callable[..., Any]], time_out: float | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Ask.

        Args:
            questions: site -> a function of (device, on_step).
            time_out: seconds that each site has. In one process nobody can walk away from a site: it is asked
                after each of its steps whether its time is up, and an answer that comes too late all the same
                isn't taken.

        Returns: site -> answer, and for the others site -> a sentence why not, both in the order of the questions.
        """
        stopped = threading.Event()
        if self._pool is None:
            outcomes = [self._ask(name, question, time_out, stopped) for name, question in questions.items()]
        else:
            futures = [self._pool.submit(self._ask, name, question, time_out, stopped) for name, question in questions.items()]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()  # raises what no site's failure is
                outcomes = [future.result() for future in futures]
            except BaseException:  # the user's stop: the other sites end after their next step
                stopped.set()
                for future in futures:
                    future.cancel()
                raise
        named = dict(zip(questions, outcomes, strict=True))
        answers = {name: outcome for name, outcome in named.items() if not isinstance(outcome, Absent)}
        return answers, {name: str(outcome) for name, outcome in named.items() if isinstance(outcome, Absent)}

    def _ask(self, name: str, question: Callable[..., Any], time_out: float | None, stopped: threading.Event) -> Any:
        """The site's answer, or Absent."""
        start = time.perf_counter()

        def in_time(*_: int) -> None:
            if stopped.is_set():
                raise Absent("the run was stopped")
            if time_out is not None and time.perf_counter() - start > time_out:
                raise Absent(f"took longer than {time_out:g} s")

        try:
            answer = question(device=self.device, on_step=in_time)
            in_time()
            return answer
        except Absent as absent:
            return absent
        except KitError as error:
            return Absent(str(error))
        except Exception as error:
            # The text may name films or patients, so it stays in the site's own log; the server gets the kind alone.
            _log.warning("Site %s failed", name, exc_info=True)
            return Absent(f"failed with {type(error).__name__}")
