"""Encrypted inference: a private model on a private image, of which only the data owner learns the answer."""

from .clear import ClearRun, run_clear
from .compile import CompiledModel, compile_private
from .encoding import decode_outputs, encode_images

__all__ = ["ClearRun", "CompiledModel", "compile_private", "decode_outputs", "encode_images", "run_clear"]
