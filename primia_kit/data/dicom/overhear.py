"""What decoders would write on the screen: GDCM's JPEG library tells of damaged data there and nowhere else."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ONE_AT_A_TIME = threading.Lock()  # a process has one stderr
_JPEG_WORDS = re.compile(r"JPEG|marker|Huffman|Bogus|scan|quantization|precision", re.I)

logging.getLogger("openjpeg").addHandler(logging.NullHandler())  # without a handler, Python would print its errors


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Collect the lines that a JPEG library writes to the process's stderr; they are in the list afterwards.

    Lines of other threads that fall into it are passed on.
    """
    import gdcm

    for off in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
        off()
    lines: list[str] = []
    with _ONE_AT_A_TIME, tempfile.TemporaryFile() as heard:
        stderr = os.dup(2)
        os.dup2(heard.fileno(), 2)
        try:
            yield lines
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            heard.seek(0)
            for line in heard.read(2**16).decode(errors="replace").splitlines():
                if _JPEG_WORDS.search(line):
                    lines.append(line)
                else:
                    print(line, file=sys.stderr)
