"""The ranges of what the sites contribute, for sums whose overflow nobody could see.

A secure sum adds whole numbers modulo 2^32, so every part needs a bound that its values keep. A site sends
weight x (local - global). Its weight is at most that of all sites, W: the number of all training films, which the
sum of the pixel statistics tells, or of sites. So no key of the plan is needed.

Precision comes first and the bound is what 31 bits leave: for n sites, a bound of B W on weight x change makes the
sum wrong by at most n^2 B W / 2^31. With B = 2^12 / n^2 that is 2e-6 W, whatever n is, and the mean update is wrong by
2e-6 W / (weight in the sum): 2e-6 if all sites are in it, 7e-5 if a draw leaves 3% of the films. A site that has its
equal share may then change a parameter by 2^12 / n in a round (1,365 for 3 sites, 82 for 50), and training that does
more has diverged.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..secagg import Field

MOST_PIXELS = 2.0**36  # at one site: 16 million films of 64 x 64 pixels
PRECISION = 2.0**-19  # of the mean update, at worst
LARGEST_STATISTIC = 2.0**20  # change of a BatchNorm statistic in one round; variances can be large
_STATISTICS = ("running_mean", "running_var")

# Pixels lie in [0, 1], so neither sum exceeds their number. In steps of 2^-12 even a single film's variance is
# right to a millionth.
PIXEL_FIELDS = {
    "pixels": Field(MOST_PIXELS, 1.0, words=2),
    "sum": Field(MOST_PIXELS, 2.0**-12, words=2),
    "sum_of_squares": Field(MOST_PIXELS, 2.0**-12, words=2),
}

COUNT_FIELDS = {"films": Field(2.0**32, 1.0, words=2)}
# Features have length 1.
FEATURE_FIELDS = {"features": Field(2.0**32, 2.0**-16, words=2), "films": Field(2.0**32, 1.0, words=2)}
# A loss is summed over films, in nats; no site's comes near this unless it has diverged.
VALIDATION_FIELDS = {"loss": Field(2.0**32, 2.0**-16, words=2), "films": Field(2.0**32, 2.0**-16, words=2)}


def update_fields(names: Iterable[str], total_weight: float, sites: int) -> dict[str, Field]:
    """The fields of a weighted update.

    Args:
        names: of its parts: "weight", and parameters and buffers of the model; SCAFFOLD's control variates.
        total_weight: W, of all sites, whether they are in the sum or not.
        sites: how many updates are added up.
    """
    largest_change = 2.0**31 * PRECISION / sites**2
    fields = {}
    for name in names:
        if name == "weight":
            fields[name] = Field(total_weight, words=2)
        elif name.endswith(_STATISTICS):
            fields[name] = Field(total_weight * LARGEST_STATISTIC, words=2)
        else:
            fields[name] = Field(total_weight * largest_change)
    return fields
