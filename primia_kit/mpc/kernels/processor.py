"""What this machine's processor can do, asked of LLVM."""

from __future__ import annotations

from functools import cache


@cache
def features() -> frozenset[str]:
    """Names of the processor's features in LLVM's spelling, e.g. {"avx2", "avx512ifma"}; empty without llvmlite."""
    try:
        from llvmlite import binding
    except ImportError:
        return frozenset()
    return frozenset(name for name, has in binding.get_host_cpu_features().items() if has)


def has_avx2() -> bool:
    return "avx2" in features()


def has_ifma() -> bool:
    return {"avx512f", "avx512ifma"} <= features()


def environment() -> dict[str, str]:
    """Variables for a party's process, to be set before numba is imported there.

    NUMBA_CPU_FEATURES: the processor's own, less LLVM's preference for 256-bit vectors, which halves the speed of the
    AVX-512 kernels. It changes what numba compiles in the whole process, so a notebook's kernel goes without.
    """
    if not has_ifma():
        return {}
    from llvmlite import binding

    return {"NUMBA_CPU_FEATURES": binding.get_host_cpu_features().flatten() + ",-prefer-256-bit"}
