"""What the server saw: every message it received, and all that it learned in clear."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

OPAQUE, PUBLIC, CLEAR = "opaque", "public", "in clear"


@dataclass(frozen=True)
class Entry:
    """One thing that the server received or worked out.

    purpose: of the round. sender, receiver: a site, or "server". what: in words. bytes: its size.
    readable: "opaque" (says nothing to the server), "public" (may be known to all) or "in clear".
    content: the message, where the transcript keeps messages.
    """

    purpose: str
    sender: str
    receiver: str
    what: str
    bytes: int
    readable: str
    content: bytes | None = field(default=None, repr=False, compare=False)


class Transcript:
    """The server's view of a run, in order.

    Args:
        keep_messages: keep what is in the messages, for lessons and tests; else their sizes alone.
    """

    def __init__(self, *, keep_messages: bool = False):
        self.keep_messages = keep_messages
        self.entries: list[Entry] = []

    def message(self, purpose: str, sender: str, what: str, readable: str, message) -> None:
        """Note a message that the server received."""
        content = bytes(message) if self.keep_messages else None
        self.entries.append(Entry(purpose, sender, "server", what, len(message), readable, content))

    def learned(self, purpose: str, what: str, readable: str = CLEAR) -> None:
        """Note what the server knows by its own work: the sum, who stayed."""
        self.entries.append(Entry(purpose, "server", "server", what, 0, readable))

    def clear(self, purpose: str, site: str, what: str, size: int = 0) -> None:
        """Note what a site gave to the server in clear, beside or instead of the secure sum."""
        self.entries.append(Entry(purpose, site, "server", what, size, CLEAR))

    def bytes_from(self, site: str, purpose: str | None = None) -> int:
        """Bytes that a site sent to the server, in one round or in all."""
        return sum(e.bytes for e in self.entries if e.sender == site and purpose in (None, e.purpose))

    def masked_words(self, purpose: str, site: str) -> np.ndarray:
        """The masked vector of a site as the server received it: uint32 [words]. Needs keep_messages."""
        from .messages import TAG_BYTES, Phase, body_of

        for entry in self.entries:
            if (entry.purpose, entry.sender, entry.what) == (purpose, site, Phase.MASKED_INPUT.what) and entry.content:
                return np.frombuffer(body_of(entry.content)[:-TAG_BYTES], "<u4")
        raise LookupError(f"no masked vector of site {site} for {purpose!r} is kept")

    def table(self):
        """A pandas table with a row for each entry."""
        import pandas as pd

        columns = {"purpose": "purpose", "sender": "from", "what": "what", "bytes": "bytes", "readable": "for the server"}
        rows = [{title: getattr(entry, name) for name, title in columns.items()} for entry in self.entries]
        return pd.DataFrame(rows, columns=list(columns.values()))

    def sentences(self, purpose: str | None = None) -> list[str]:
        """What the server saw, a sentence for each kind of thing, in one round or in all."""
        groups: dict[tuple[str, str, str], list[Entry]] = {}
        for entry in self.entries:
            if purpose in (None, entry.purpose):
                groups.setdefault((entry.purpose, entry.what, entry.readable), []).append(entry)
        said = []
        for (of, what, readable), entries in groups.items():
            if entries[0].sender == "server":
                said.append(f"{of}: the server learned {what}.")
                continue
            sites = ", ".join(entry.sender for entry in entries)
            size = f" ({max(entry.bytes for entry in entries):,} bytes each)" if entries[0].bytes else ""
            meaning = {OPAQUE: "opaque to it", PUBLIC: "which anybody may know", CLEAR: "in clear"}[readable]
            said.append(f"{of}: the server received {what}{size} from {sites}, {meaning}.")
        return said
