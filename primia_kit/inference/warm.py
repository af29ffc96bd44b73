"""`python -m primia_kit.inference.warm`: compile all loops of encrypted inference once; numba keeps them on the disk.

Without it the first inference on a machine takes some seconds longer. All three parties run, in this process.
"""

from __future__ import annotations

import time

import torch
from torch import nn

from .compile import compile_private
from .parties.teaching import TeachingSession


def warm() -> float:
    """Run one small inference with every kind of step that has compiled loops. Returns: its seconds."""
    start = time.perf_counter()
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.ReLU6(),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    images = torch.rand(2, 1, 16, 16)
    for reveal in ("logits", "label"):
        compiled = compile_private(network, images, reveal=reveal)
        with TeachingSession(compiled.program, compiled.weights) as session:
            for _ in session.run(images.numpy()):
                pass
    return time.perf_counter() - start


if __name__ == "__main__":
    print(f"Compiled and kept: {warm():.1f} s. A second time it takes about a second.")
