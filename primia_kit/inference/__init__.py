"""Encrypted inference: a private model on a private image, of which only the data owner learns the answer.

What compiles a network comes with torch, and is imported when it's first asked for: a crypto provider needs none of it.
"""

from importlib import import_module

_FROM = {
    "ClearRun": "clear",
    "run_clear": "clear",
    "CompiledModel": "compile",
    "compile_private": "compile",
    "decode_outputs": "encoding",
    "encode_images": "encoding",
}
__all__ = sorted(_FROM)


def __getattr__(name: str):
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FROM[name]}", __name__), name)
