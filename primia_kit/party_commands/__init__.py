"""The commands `primia certificates` and `primia party provider|model|data|server|share-model`."""

from __future__ import annotations

from pathlib import Path

from . import asking, serving

_CERTIFICATES_HELP = """\
Make a small certificate authority, and a key and certificate for each party of
an encrypted inference. The certificate names its role: a data owner's can't
play the provider.

  primia certificates federation provider model data
  primia certificates federation data:hospital-b          one more, later

Each folder below federation/ goes to its party's machine, over a way that you
trust; key.pem stays readable by its owner alone. federation/ca.key can make new
parties: keep it offline, at nobody who is a party.
"""
_PARTY_HELP = """\
One of the three parties of an encrypted inference. Each runs on a machine of its
own (or all on one, to try it):

  provider   deals randomness ahead of time; sees neither image nor model
  model      has the model; sees neither images nor answers
  data       has the images; alone learns the answers

The provider must work together with neither of the others: with the data owner
it would learn the model, with the model owner every image. `primia certificates`
makes the certificates by which the parties know each other.

Outsourced, two servers compute in place of data owner and model owner, and neither
of them sees image, model or answer. Provider and servers: no two together.

  server       one of the two servers
  share-model  the model owner shares its model between them, once
"""
_SERVER_HELP = """\
One of two servers that compute for data owners until they are stopped. Neither sees
image, model or answer; both together would, and so would one and the provider.

  primia party server --index 1 --listen 0.0.0.0:7002 --connect-provider provider.example:7000 \\
      --cert federation/server1 --store server1
  primia party server --index 0 --listen 0.0.0.0:7001 --connect-provider provider.example:7000 \\
      --connect-server1 server1.example:7002 --cert federation/server0 --store server0 --stock 20

--store keeps this server's share of the model, what the provider has dealt, and how
many images each data owner has asked about. --budget bounds that, at each server.
"""
_SHARE_HELP = """\
Share a compiled model between two servers. The model owner isn't needed afterwards.

  primia party share-model --model model.npz --cert federation/model \\
      --connect-provider provider.example:7000 \\
      --connect-server0 server0.example:7001 --connect-server1 server1.example:7002

Shares are drawn anew each time: share again after a server has lost its own, or has
another certificate. What was dealt before serves nobody then, and is wiped.
"""
_PROVIDER_HELP = """\
Deal correlated randomness to a model owner and data owners until it's stopped.

  primia party provider --listen 0.0.0.0:7000 --cert federation/provider --store provider

--store keeps programs, and two seeds for each inference until the model owner has
fetched its half. It never holds an image, a weight or an answer.
"""
_MODEL_HELP = """\
Serve a compiled model to data owners until it's stopped.

  primia party model --listen 0.0.0.0:7001 --connect-provider provider.example:7000 \\
      --cert federation/model --store model --model model.npz --budget 1000

--model is a file of `primia compile`. --store keeps the model's mask, what the provider has
dealt (--disk bounds it; a data owner may have no more of it than stays free, so
one alone half), and how many images each data owner has asked about:
answers leak a model bit by bit, so give a --budget.
"""
_DATA_HELP = """\
Ask a model about images, and show the answers.

  primia party data --connect-model model.example:7001 --connect-provider provider.example:7000 \\
      --cert federation/data --store data --image film.dcm

An image is a film (DICOM, PNG, JPEG, ...), or a .npy file with an array [C, H, W]
of pixels. Nothing of it leaves this machine but sums with random numbers that are
used once. The answer is a research demonstration, not a diagnosis.

Outsourced, name two servers instead of model owner and provider:

  primia party data --connect-server0 server0.example:7001 --connect-server1 server1.example:7002 \\
      --cert federation/data --image film.dcm

--stock N has the provider deal for N inferences ahead of time and stops: later
runs need no provider then. --expect names the program (its SHA-256) that you
agreed on with the model owner; another one is refused. --pin-model and
--pin-provider (--pin-server0, --pin-server1) do the same for who is at the other
end: a certificate's name, or the fingerprint that `primia certificates` prints,
which a new certificate changes.
"""


def add_commands(commands, plain) -> None:
    """Add `certificates` and `party` to the command line's subparsers; `plain` is their formatter."""
    make = commands.add_parser(
        "certificates", help="keys by which parties know each other", description=_CERTIFICATES_HELP, formatter_class=plain
    )
    make.add_argument("folder", type=Path, metavar="FOLDER")
    make.add_argument(
        "parties", nargs="+", metavar="ROLE[:NAME]", help="provider, model, data, server0, server1, or data:hospital-a"
    )
    make.add_argument("--days", type=int, default=365, help="how long they hold (default: 365)")
    make.set_defaults(command=serving.certificates)

    party = commands.add_parser(
        "party", help="a party of an encrypted inference", description=_PARTY_HELP, formatter_class=plain
    ).add_subparsers(required=True, metavar="ROLE")
    provider = party.add_parser("provider", help="deals randomness", description=_PROVIDER_HELP, formatter_class=plain)
    model = party.add_parser("model", help="has the model", description=_MODEL_HELP, formatter_class=plain)
    data = party.add_parser("data", help="has the images", description=_DATA_HELP, formatter_class=plain)
    server = party.add_parser("server", help="computes with shares", description=_SERVER_HELP, formatter_class=plain)
    share = party.add_parser("share-model", help="shares a model", description=_SHARE_HELP, formatter_class=plain)
    for command in (provider, model, server):
        command.add_argument("--listen", required=True, metavar="HOST:PORT", help="where others connect to; port 0: any")
    for command in (provider, model, data, server, share):
        command.add_argument("--cert", required=True, type=Path, metavar="FOLDER", help="key.pem, cert.pem, ca.pem")
        command.add_argument("--timeout", type=float, default=60.0, metavar="S", help="longest wait for a message (60)")
    for command in (provider, model, data, server):
        needed = command is not data  # outsourced, a data owner keeps nothing
        command.add_argument("--store", required=needed, type=Path, metavar="FOLDER", help="this party's own folder")
    for command in (model, server, share):
        command.add_argument("--connect-provider", required=True, metavar="HOST:PORT")
    for command in (model, share):
        command.add_argument("--model", required=True, type=Path, metavar="FILE", help="the compiled model")
    for command in (model, server):
        command.add_argument("--budget", type=int, metavar="N", help="images that each data owner may ask about (no limit)")
        command.add_argument("--disk", type=float, default=8.0, metavar="GB", help="what dealt material may take (8)")
    server.add_argument("--index", type=int, choices=(0, 1), required=True, help="which of the two")
    server.add_argument("--connect-server1", metavar="HOST:PORT", help="server 0 needs it")
    server.add_argument("--stock", type=int, default=0, metavar="N", help="server 0: have so many dealt ahead (0)")
    share.add_argument("--connect-server0", required=True, metavar="HOST:PORT")
    share.add_argument("--connect-server1", required=True, metavar="HOST:PORT")
    pinned = {
        "provider": (model, data, server, share),
        "model": (data,),
        "server0": (data, share),
        "server1": (data, share, server),
    }
    for role, commands_with in pinned.items():
        for command in commands_with:
            command.add_argument(f"--pin-{role}", metavar="WHO", help=f"name or fingerprint of the one {role} to talk to (any)")
    data.add_argument("--connect-model", metavar="HOST:PORT")
    data.add_argument("--connect-provider", metavar="HOST:PORT")
    data.add_argument("--connect-server0", metavar="HOST:PORT", help="outsourced")
    data.add_argument("--connect-server1", metavar="HOST:PORT", help="outsourced")
    data.add_argument("--image", type=Path, action="append", default=[], metavar="FILE", help="may be repeated")
    data.add_argument("--geometry", choices=("pad", "stretch"), default="pad", help="how films become square (pad)")
    data.add_argument("--expect", metavar="SHA256", help="the program that was agreed on")
    data.add_argument("--stock", type=int, default=0, metavar="N", help="deal for N inferences ahead of time")
    data.add_argument("--layers", action="store_true", help="a line for each layer")
    provider.set_defaults(command=serving.provider)
    model.set_defaults(command=serving.model)
    data.set_defaults(command=asking.ask)
    server.set_defaults(command=serving.server)
    share.set_defaults(command=serving.share)
