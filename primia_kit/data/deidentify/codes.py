"""Codes of the standard's context groups (PS3.16), as pydicom has them: only these stay, with the meaning given there.

A code's meaning is free text to whoever writes it, and so is the code of a scheme that nobody can look up.
"""

from __future__ import annotations

from functools import lru_cache

CODE_TAGS = {0x00080100, 0x00080102, 0x00080104, 0x00080119, 0x00080120}  # value, scheme, meaning; long and URN values
_OLD_SNOMED = {"SRT", "SNM3", "99SDM"}
_LONGEST = 64  # characters of a CodeMeaning (LO)
_ALSO = {"R-10214": "272479007"}  # postero-anterior, which pydicom's table of old codes leaves out


def standard_meaning(item) -> str | None:
    """What the code in a sequence item means, "" if the item is no code, None if no context group has it."""
    if not CODE_TAGS & set(item.keys()):
        return ""
    scheme, code = (str(item.get(keyword) or "").strip() for keyword in ("CodingSchemeDesignator", "CodeValue"))
    if scheme in _OLD_SNOMED:
        scheme, code = "SCT", _from_old_snomed(code)
    return _meanings().get((scheme, code))


def _from_old_snomed(code: str) -> str:
    from pydicom.sr._snomed_dict import mapping

    return mapping["SRT"].get(code) or _ALSO.get(code, "")


@lru_cache(maxsize=1)
def _meanings() -> dict[tuple[str, str], str]:
    from pydicom.sr._concepts_dict import concepts

    return {
        (scheme, code): meaning[:_LONGEST].strip()
        for scheme, groups in concepts.items()
        for codes in groups.values()
        for code, (meaning, _) in codes.items()
    }
