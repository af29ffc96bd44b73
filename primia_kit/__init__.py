"""PriMIA Kit: privacy-preserving medical imaging, in notebooks that a class can read.

Import the part you need (`from primia_kit import data, federation`); this package itself imports
nothing, so that a command line or a lesson starts at once.
"""

__version__ = "0.1.0"
