"""Alone, pooled or federated: what each hospital gets from each way to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from ..data import pool_films
from ..errors import KitError
from ..evaluation import HEADLINE as METRICS
from ..evaluation import Scores, score
from ..models import TrainedModel
from .local import predict
from .site import Site

EVERYWHERE = "all"  # the test films of all sites together


def pool_sites(sites: Sequence[Site], name: str = "central") -> Site:
    """One site that holds everybody's films: what privacy rules forbid, and what federation is measured by."""
    return Site(name, pool_films([site.train for site in sites]), pool_films([site.test for site in sites]))


def evaluate(model: TrainedModel, sites: Sequence[Site]) -> dict[str, Scores]:
    """Scores on each site's test films, and on all of them together under "all".

    Raises: KitError if a site's films aren't in the form that the model was trained on.
    """
    if not any(len(site.test) for site in sites):
        raise KitError("No site has a test film: give the manifest a test split.")
    network, spec = model.network(), model.spec
    truth, answers, scores = [], [], {}
    for site in sites:
        for what in ("classes", "size", "geometry"):
            trained, given = getattr(spec, what), getattr(site.test, what)
            if trained != given:
                raise KitError(f"The model was trained with {what} {trained!r}; site {site.name}'s test films have {given!r}.")
        probabilities = predict(network, site.test, spec)
        if not torch.isfinite(probabilities).all():
            raise KitError("The model answers with values that aren't numbers: its training diverged. Lower learning_rate.")
        scores[site.name] = score(site.test.labels.numpy(), probabilities.numpy())
        truth.append(site.test.labels)
        answers.append(probabilities)
    scores[EVERYWHERE] = score(torch.cat(truth).numpy(), torch.cat(answers).numpy())
    return scores


@dataclass(frozen=True)
class Comparison:
    """Three ways to train, tested on the same films.

    central, federated: test site or "all" -> scores.
    local: training site -> (test site or "all" -> scores).
    """

    central: dict[str, Scores]
    local: dict[str, dict[str, Scores]]
    federated: dict[str, Scores]

    def own(self) -> dict[str, Scores]:
        """Each site's own model on its own test films."""
        return {site: scores[site] for site, scores in self.local.items()}

    def results(self) -> dict[str, float | int]:
        """Flat keys for a result file, by metric.

        central.mcc, federated.mcc: on the test films of all sites together. central.A.mcc and so on: on the
        test films of site A alone; local.A.mcc is A's own model. local.mcc, central.own.mcc and
        federated.own.mcc: the means of these over the sites, to be compared with each other.
        local.everywhere.mcc: mean over the sites of their own model on the test films of all.
        """
        flat: dict[str, float | int] = {"test_films": self.central[EVERYWHERE].films}
        for metric in METRICS:
            for arm, scores in (("central", self.central), ("federated", self.federated)):
                flat[f"{arm}.{metric}"] = getattr(scores[EVERYWHERE], metric)
                flat[f"{arm}.own.{metric}"] = _mean(getattr(scores[site], metric) for site in self.local)
            flat[f"local.{metric}"] = _mean(getattr(s, metric) for s in self.own().values())
            flat[f"local.everywhere.{metric}"] = _mean(getattr(s[EVERYWHERE], metric) for s in self.local.values())
            for site, own in self.own().items():
                flat[f"central.{site}.{metric}"] = getattr(self.central[site], metric)
                flat[f"local.{site}.{metric}"] = getattr(own, metric)
                flat[f"federated.{site}.{metric}"] = getattr(self.federated[site], metric)
        return flat

    def table(self):
        """A pandas table: who trained -> accuracy, balanced accuracy, MCC and AUC on all test films."""
        import pandas as pd

        rows = {"pooled (central)": self.central, "federated": self.federated}
        rows |= {f"{site} alone": scores for site, scores in self.local.items()}
        return pd.DataFrame({name: asdict(scores[EVERYWHERE]) for name, scores in rows.items()}).T.astype({"films": int})

    def by_site(self, metric: str = "mcc"):
        """A pandas table: test site -> its own model, the federated one, the pooled one, and the gain."""
        import pandas as pd

        own = self.own()
        table = pd.DataFrame(
            {
                "alone": {site: getattr(own[site], metric) for site in own},
                "federated": {site: getattr(self.federated[site], metric) for site in own},
                "pooled (central)": {site: getattr(self.central[site], metric) for site in own},
            }
        )
        table["gain by joining"] = table["federated"] - table["alone"]
        return table.rename_axis("hospital")


def compare(
    central: TrainedModel, local: Mapping[str, TrainedModel], federated: TrainedModel, sites: Sequence[Site]
) -> Comparison:
    """Test all models on the sites' test films."""
    return Comparison(
        central=evaluate(central, sites),
        local={name: evaluate(model, sites) for name, model in local.items()},
        federated=evaluate(federated, sites),
    )


def _mean(values) -> float:
    """The mean of the values that are defined; NaN if none is."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else float("nan")
