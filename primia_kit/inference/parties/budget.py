"""How many images each data owner may still ask about: answers leak a model, so a model owner counts them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from ...errors import KitError
from ..certificates import Peer
from ..store import write_private
from .channel import Refusal


class QueryBudget:
    """Images asked, for each data owner by its certificate's name, on the disk before they are answered.

    Args:
        path: the file that remembers; it outlives restarts and models, so delete it to start anew.
        limit: images for each data owner; None counts without a limit.
    """

    def __init__(self, path: str | Path, limit: int | None):
        self._path, self.limit, self._lock = Path(path), limit, threading.Lock()
        try:
            self._spent: dict[str, int] = json.loads(self._path.read_text()) if self._path.exists() else {}
            if not all(isinstance(count, int) and count >= 0 for count in self._spent.values()):
                raise ValueError("counts are whole numbers")
        except (ValueError, AttributeError, OSError) as error:
            raise KitError(
                f"{self._path} is no record of spent budgets ({error}): restore it, or delete it to start anew."
            ) from error

    def left(self, peer: Peer) -> int:
        """Images that this data owner may ask about; -1 for no limit."""
        return -1 if self.limit is None else max(self.limit - self._spent.get(peer.identity, 0), 0)

    def check(self, peer: Peer, images: int) -> None:
        """Raises: KitError if so many images are more than are left."""
        left = self.left(peer)
        if 0 <= left < images:
            raise Refusal(
                f"The query budget of {peer} is {self.limit} images: {left} are left, and {images} were asked for. "
                "The model owner can raise it (--budget)."
            )

    def spend(self, peer: Peer, images: int) -> None:
        """Count images, for good, before the first message about them. Raises: KitError as `check`."""
        with self._lock:
            self.check(peer, images)
            spent = {**self._spent, peer.identity: self._spent.get(peer.identity, 0) + images}
            write_private(self._path, json.dumps(spent).encode())
            self._spent = spent
