"""The one exception that the kit raises for a mistake its user can mend."""


class KitError(Exception):
    """A sentence: what went wrong, where, and what to do about it.

    Anything else that escapes from the kit is a defect of the kit. In a notebook the sentence stands
    alone, without a traceback: IPython asks an exception for `_render_traceback_`.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def nearest(name: str, known) -> str:
    """' (did you mean 'rounds'?)' for the known name closest to a misspelt one, or ''."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
