"""PriMIA Kit: privacy-preserving medical imaging, in notebooks that a class can read.

Import the part you need (`from primia_kit import data, federation`); this package itself imports
none of them, so that a command line or a lesson starts at once.
"""

import os

__version__ = "0.1.0"

# PyTorch's threads wait for each other by spinning. Where another program has a core, a thread spins through all of
# its time while the one that it waits for isn't running (benchmarks/busy_machine.py). Read when PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
