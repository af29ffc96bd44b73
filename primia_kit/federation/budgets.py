"""Each hospital's ledger for a private run, and who has budget left for another round."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .checkpoint import Checkpoints
from .distributed import noise_terms, settle_noise
from .messages import SiteMemory
from .plan import TrainingPlan
from .private import SitePrivacy, count_units, open_privacy
from .private_statistics import statistics_spends
from .site import Site

PASSING = (
    "Neither ledgers nor checkpoints names a folder, so the hospitals' ledgers end with this run: another one on the "
    "same patients won't know what was spent."
)


def ledger_folder(named: str | Path | None, checkpoints: Checkpoints | None) -> tempfile.TemporaryDirectory | None:
    """A folder that ends with the run, where neither argument says where ledgers are to stay."""
    if named is None and checkpoints is None:
        return tempfile.TemporaryDirectory(prefix="primia-ledgers-")
    return None


def ledger_path(folder: str | Path, site: str) -> Path:
    """The file of a site's ledger in a folder of ledgers."""
    return Path(folder) / quote(site, safe=" ")


def open_ledgers(
    plan: TrainingPlan, sites: Sequence[Site], folder: str | Path | Checkpoints, server: Mapping[str, Any],
    kept: Mapping[str, Mapping[str, Any]],
) -> dict[str, SitePrivacy]:  # fmt: skip
    """Site -> its ledger and noise; a ledger must hold what the server's checkpoint knows of it.

    Args:
        folder: a folder of ledgers, or the checkpoints beside which they lie.
        server, kept: the server's state and each site's, from a checkpoint; empty at a run's start.

    Raises: KitError as `open_privacy`.
    """
    heads = {name: head for record in server.get("rounds", ()) for name, head in record["ledger_heads"].items()}
    terms = noise_terms(plan, sites) if plan.noise == "distributed" else None
    opened = {}
    for site in sites:
        path = folder.ledger(site.name) if isinstance(folder, Checkpoints) else ledger_path(folder, site.name)
        opened[site.name] = open_privacy(
            site.name, site.train, plan, path, expected_head=heads.get(site.name),
            noise_multiplier=kept[site.name]["noise_multiplier"] if kept else None,
            statistics=statistics_spends(plan), step=None if terms is None else terms.mechanism,
        )  # fmt: skip
    if terms is not None:
        settle_noise(terms, opened.values())
    return opened


def spent(plan: TrainingPlan, sites: Sequence[Site], memories: Mapping[str, SiteMemory]) -> list[str]:
    """The hospitals whose budget doesn't allow another round."""
    if not plan.private:
        return []
    units = {site.name: count_units(site.train, plan.privacy) for site in sites}
    return [name for name, m in memories.items() if not m.privacy.affords(plan, units[name])]
