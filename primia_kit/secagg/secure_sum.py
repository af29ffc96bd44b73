"""Secure aggregation in one process: clients and server exchange the bytes that would cross a network."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import torch

from ..errors import KitError, nearest
from .aggregation import Contribution, check_same_parts
from .agreement import RUN_BYTES, SMALLEST_ANONYMITY, Agreement, check_sites
from .client import Client
from .fields import Field, Layout
from .keys import Identity
from .server import Server
from .transcript import Transcript

DROPOUTS = {  # the last phase in which a site that drops out still sends its message
    "before keys": 0,
    "before shares": 1,
    "before masking": 2,
    "after masking": 3,
    "during unmasking": 4,
}


class SecureSum:
    """The server learns the sum over the sites that stayed, and of no site anything but that it stayed.

    Bonawitz et al. 2017, see `Client` for the protocol. A site that drops out before its masked vector came
    is missing from the sum, and from the weight in it; one that drops out afterwards is in it.

    One object serves one run. A purpose may be summed again, since an attempt can fail, but only over the same
    survivors, see `History`.

    Args:
        identities: site -> its Ed25519 identity; made on the spot for sites that have none, which is right
            in one process alone: hospitals must know each other's public keys ahead.
        dropouts: site -> when it drops out, in every sum: "before keys", "before shares", "before masking",
            "after masking" or "during unmasking". For lessons and tests; may be changed between sums.
        min_survivors: with fewer contributions in the sum, the round aborts.
        unsafe_two_survivors: allow min_survivors = 2 (its default then). Each of two survivors learns the
            other's contribution: for lessons alone, and the transcript says so.
        transcript: where the server's view is noted; default a new one.
        run: the run's id, 16 bytes, where a run is taken up again; default a new one.

    After a sum, `survivors` names the sites that are in it.
    """

    def __init__(
        self,
        identities: Mapping[str, Identity] | None = None,
        *,
        dropouts: Mapping[str, str] | None = None,
        min_survivors: int | None = None,
        unsafe_two_survivors: bool = False,
        transcript: Transcript | None = None,
        run: bytes | None = None,
    ):
        self.identities = dict(identities or {})
        self._make_identities = identities is None
        self.dropouts = dict(dropouts or {})
        self.min_survivors = min_survivors if min_survivors is not None else 2 if unsafe_two_survivors else SMALLEST_ANONYMITY
        self.unsafe_two_survivors = unsafe_two_survivors
        self.transcript = transcript if transcript is not None else Transcript()
        self.survivors: tuple[str, ...] = ()
        self._run = run if run is not None else secrets.token_bytes(RUN_BYTES)

    def sum(
        self, purpose: str, contributions: Mapping[str, Contribution], fields: Mapping[str, Field] | None = None
    ) -> dict[str, torch.Tensor]:
        """Add up the contributions, see `Aggregator`; `fields` is needed here.

        Each site's contribution is asked for when its turn comes, so `contributions` may make them on demand.

        Raises: AggregationAborted if too few sites stay; KitError as every aggregator.
        """
        sites = tuple(sorted(contributions))
        check_sites(purpose, sites, self.min_survivors, self.unsafe_two_survivors)
        if fields is None:
            raise KitError(f"{purpose}: a secure sum needs `fields`, which say how large each part's values may become.")
        self.survivors = ()
        first_site = sites[0]
        first = contributions[first_site]
        shapes = {name: torch.empty_like(part, device="meta") for name, part in first.items()}
        layout = Layout.of(purpose, shapes, fields, len(sites))
        del first

        def write_input(site: str):
            def write(words) -> None:
                contribution = contributions[site]
                check_same_parts(purpose, site, contribution, first_site, shapes)
                layout.encode(purpose, site, contribution, words)

            return write

        agreement = self._agreement(purpose, sites, layout)
        server = Server(agreement, self.transcript)
        clients = {site: Client(agreement, site, self.identities[site], write_input(site)) for site in sites}
        run_round(server, clients, self._last_phases(sites))
        self.survivors = server.survivors
        return layout.decode(server.result())

    def _agreement(self, purpose: str, sites: tuple[str, ...], layout: Layout) -> Agreement:
        for site in sites:
            if site not in self.identities:
                if not self._make_identities:
                    raise KitError(f"{purpose}: site {site} has no identity{nearest(site, self.identities)}.")
                self.identities[site] = Identity.generate()
        return Agreement(
            run=self._run,
            purpose=purpose,
            sites=sites,
            identities=tuple(self.identities[site].public for site in sites),
            words=layout.words,
            layout=layout.digest,
            min_survivors=self.min_survivors,
            unsafe_two_survivors=self.unsafe_two_survivors,
        )

    def _last_phases(self, sites: tuple[str, ...]) -> dict[str, int]:
        for site, phase in self.dropouts.items():
            if phase not in DROPOUTS:
                raise KitError(f"Site {site} can't drop out {phase!r}{nearest(str(phase), DROPOUTS)}; {', '.join(DROPOUTS)}.")
            if site not in sites:
                raise KitError(f"Site {site} can't drop out: it doesn't take part{nearest(site, sites)}.")
        return {site: DROPOUTS[phase] for site, phase in self.dropouts.items()}


def run_round(server: Server, clients: Mapping[str, Client], last_phases: Mapping[str, int] | None = None) -> None:
    """Carry the messages of one round to its end.

    Args:
        last_phases: site -> the last phase (`Phase`) in which it still sends its message, for those that drop out.
    """
    last_phases = last_phases or {}
    inbox: dict[str, bytes] | None = None
    while server.phase is not None:
        phase = server.phase
        for site in clients if inbox is None else inbox:
            if phase <= last_phases.get(site, phase):
                server.receive(clients[site].start() if inbox is None else clients[site].answer(inbox[site]))
        inbox = server.advance()
