"""Notebooks as parameterised batches: one run, a sweep that can be stopped, a report.

`record` is what a notebook calls; the rest stands behind the command line (`primia --help`).
"""

from .record import record

__all__ = ["record"]
