"""What an adversary can do with what leaves a hospital."""

from .linkage import Linkage, link_films, linkage_table, returning_patients

__all__ = ["Linkage", "link_films", "linkage_table", "returning_patients"]
