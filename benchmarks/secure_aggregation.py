"""What secure aggregation costs: one round of a ResNet-18's update over 3, 10 and 50 sites, in one process.

Clients and server run the whole protocol over its bytes, one after the other, so a round in which every site has its
own machine is shorter. "seconds" is the shortest of some repeats. In "seconds_one_dropout" one site sends shares and
then no vector, so that its masks are taken out of the sum with the others' shares (for 3 sites this needs the unsafe
option). "max_abs_error" is that of the mean update, against float64 sums of the same updates; "bytes_up" is what one
site sends in all five messages.

    python benchmarks/secure_aggregation.py [--json] [--parameters 11.2e6] [--sites 3 10 50]

Sites' updates are made when they are asked for, and the time for making them isn't counted: 50 sites need no more
memory than 3.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping

import torch

from primia_kit.federation.fields import update_fields
from primia_kit.models import ModelSpec
from primia_kit.secagg import SecureSum

REPEATS = {3: 15, 10: 3}  # a busy machine slows single rounds; more than 10 sites run once


def shapes_of(parameters: int) -> dict[str, torch.Size]:
    """A ResNet-18's floating-point parameters and buffers, or one flat part where another size is asked for."""
    spec = ModelSpec("resnet18", ("normal", "bacterial", "viral"), "batch", "max", 224, "pad", 0.5, 0.25)
    with torch.device("meta"):
        state = spec._architecture().state_dict()
    shapes = {name: value.shape for name, value in state.items() if value.is_floating_point()}
    if abs(sum(shape.numel() for shape in shapes.values()) - parameters) > 0.01 * parameters:
        shapes = {"w": torch.Size([parameters])}
    return shapes


class Updates(Mapping):
    """Site -> weighted update, drawn when it is asked for; the last one is kept. Counts the seconds that drawing takes."""

    def __init__(self, shapes: dict[str, torch.Size], sites: int):
        self.shapes, self.names, self.seconds = shapes, [f"S{i:02}" for i in range(sites)], 0.0
        self._size = sum(shape.numel() for shape in shapes.values())
        # A site's update is a window of one long vector: other values at each site, and nothing to draw.
        self._values = torch.randn(self._size + sites, generator=torch.Generator().manual_seed(0)) * 0.05
        self._last = (None, None)

    def weight(self, site: str) -> float:
        return 100.0 + 37 * self.names.index(site)

    def __getitem__(self, site: str) -> dict[str, torch.Tensor]:
        start = time.perf_counter()
        if self._last[0] != site:
            shift = self.names.index(site)
            values = self._values[shift : shift + self._size] * self.weight(site)
            sizes = [shape.numel() for shape in self.shapes.values()]
            parts = {name: part.view(self.shapes[name]) for name, part in zip(self.shapes, values.split(sizes), strict=True)}
            self._last = (site, {"weight": torch.tensor(self.weight(site)), **parts})
        self.seconds += time.perf_counter() - start
        return self._last[1]

    def __iter__(self):
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def mean(self, sites) -> dict[str, torch.Tensor]:
        """The exact weighted mean over some sites, float64."""
        total: dict[str, torch.Tensor] = {}
        for site in sites:
            for name, part in self[site].items():
                total[name] = total[name].add_(part) if name in total else part.double()
        return {name: part / total["weight"] for name, part in total.items()}


def measure(sites: int, shapes: dict[str, torch.Size]) -> dict[str, float | int]:
    updates = Updates(shapes, sites)
    names = updates.names
    fields = update_fields(updates[names[0]], sum(map(updates.weight, names)), sites)
    result: dict[str, float | int] = {}
    cases = {"seconds": {}, "seconds_one_dropout": {names[1]: "before masking"}}
    for case, dropouts in cases.items():
        seconds = []
        for repeat in range(REPEATS.get(sites, 1)):
            aggregator = SecureSum(dropouts=dropouts, unsafe_two_survivors=sites == 3 and bool(dropouts))
            updates.seconds = 0.0
            start = time.perf_counter()
            total = aggregator.sum("round 1 update", updates, fields)
            seconds.append(time.perf_counter() - start - updates.seconds)
            print(f"{sites} sites, {case}, repeat {repeat + 1}: {seconds[-1]:.2f} s", file=sys.stderr, flush=True)
        result[case] = round(min(seconds), 4)
        mean = updates.mean(aggregator.survivors)
        error = max(float((total[name].double() / float(total["weight"]) - mean[name]).abs().max()) for name in shapes)
        result["max_abs_error"] = max(error, result.get("max_abs_error", 0.0))
        result["bytes_up"] = aggregator.transcript.bytes_from(names[0])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--parameters", type=float, default=11.2e6, help="length of an update (default: a ResNet-18's)")
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 10, 50], metavar="N")
    options = parser.parse_args()
    shapes = shapes_of(int(options.parameters))
    results = {str(sites): measure(sites, shapes) for sites in options.sites}
    if options.json:
        print(json.dumps(results))
        return
    print(f"{sum(shape.numel() for shape in shapes.values()):,} parameters")
    for sites, result in results.items():
        line = "{seconds:.2f} s, {seconds_one_dropout:.2f} s with a dropout, error {max_abs_error:.1e}, {bytes_up:,} B up"
        print(f"{sites:>3} sites: {line.format(**result)}")


if __name__ == "__main__":
    main()
