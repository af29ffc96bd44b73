"""Progress for long work: a bar in Lab and on a terminal, single lines in a batch run's output."""

from __future__ import annotations

import os
import sys
import time

BATCH_VARIABLE = "PRIMIA_BATCH"  # set by `primia run` in a notebook's kernel
LINE_EVERY_SECONDS = 15.0


class Progress:
    """A callback (done, total, what) that shows how far work is; use a new one for each piece of work.

    A finished piece leaves one line behind, the same everywhere, so that a saved notebook keeps it (a
    widget's state is lost when a notebook is saved).
    """

    def __init__(self) -> None:
        self._start = self._last_line = time.perf_counter()
        self._bar = None

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.perf_counter()
        if done >= total:
            self._close()
            print(f"{what}: {total} in {now - self._start:.1f} s", flush=True)
        elif os.environ.get(BATCH_VARIABLE):
            if now - self._last_line >= LINE_EVERY_SECONDS:
                self._last_line = now
                print(f"{what}: {done} of {total}", flush=True)
        else:
            self._bar = self._bar if self._bar is not None else _new_bar(total, what)
            self._bar.update(done - self._bar.n)

    def on_round(self, what: str):
        """The same as a callback for `federate`: (round, rounds planned)."""
        return lambda round, rounds: self(round.number, rounds, what)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _new_bar(total: int, what: str):
    if "ipykernel" in sys.modules:
        from tqdm.notebook import tqdm
    else:
        from tqdm import tqdm
    return tqdm(total=total, desc=what, leave=False)
