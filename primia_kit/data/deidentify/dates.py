"""Dates in texts, in whatever order and spelling: compared with those of a film, not searched for as strings."""

from __future__ import annotations

import re
from collections.abc import Iterator

Date = tuple[int, int, int]  # year, month, day

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*"
_GAP = r"[\s./,_'-]{0,2}"
_NUMBERS = re.compile(r"(?<!\d)(?=(\d{1,4})[\s./,_-]{1,2}(\d{1,2})[\s./,_-]{1,2}(\d{1,4})(?!\d))")
_DIGITS = re.compile(r"\d{6,}")
_DAY_MONTH_YEAR = re.compile(rf"(?<!\d)(\d{{1,2}})(?:st|nd|rd|th)?{_GAP}(?:of )?{_MONTH}{_GAP}(\d{{4}}|\d{{2}})(?!\d)")
_MONTH_DAY_YEAR = re.compile(rf"(?<![a-z]){_MONTH}{_GAP}(\d{{1,2}})(?:st|nd|rd|th)?[\s./,_'-]{{1,2}}(\d{{4}}|\d{{2}})(?!\d)")
_YEAR_MONTH_DAY = re.compile(rf"(?<!\d)(\d{{4}}|\d{{2}}){_GAP}{_MONTH}{_GAP}(\d{{1,2}})(?!\d)")


def dates_in(text: str) -> Iterator[Date]:
    """Every date that a text in lower case may be read as: 1/2/15 is 1 and 2, 2015 and 1915, and 2001 besides.

    Digits in a row: YYYYMMDD, DDMMYYYY, MMDDYYYY; YYMMDD, DDMMYY, MMDDYY; of longer rows, each YYYYMMDD within.
    """
    for match in _NUMBERS.finditer(text):
        yield from _readings(*match.groups())
    for match in _DIGITS.finditer(text):
        row = match.group()
        if len(row) == 6:
            yield from _readings(row[:2], row[2:4], row[4:])
        elif len(row) == 8:
            yield from _readings(row[:4], row[4:6], row[6:])
            yield from _readings(row[:2], row[2:4], row[4:])
        else:
            for at in range(min(len(row) - 7, 64)):
                yield int(row[at : at + 4]), int(row[at + 4 : at + 6]), int(row[at + 6 : at + 8])
    for pattern, (year, month, day) in ((_DAY_MONTH_YEAR, (3, 2, 1)), (_MONTH_DAY_YEAR, (3, 1, 2)), (_YEAR_MONTH_DAY, (1, 2, 3))):
        for match in pattern.finditer(text):
            for y in _years(match[year]):
                yield y, _MONTHS.index(match[month]) + 1, int(match[day])


def _readings(a: str, b: str, c: str) -> Iterator[Date]:
    for y in _years(a):
        yield y, int(b), int(c)
    for y in _years(c):
        yield y, int(b), int(a)
        yield y, int(a), int(b)


def _years(digits: str) -> tuple[int, ...]:
    year = int(digits)
    return (year,) if len(digits) == 4 else (1900 + year, 2000 + year) if len(digits) == 2 else ()
