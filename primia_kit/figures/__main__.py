"""Draw the README's picture: `python -m primia_kit.figures FOLDER`."""

import sys

from ..data import synthetic_hospitals
from .flow import overview


def main(folder: str) -> None:
    """Draw the README's picture into a folder."""
    overview(synthetic_hospitals(patients=10)).savefig(f"{folder}/overview.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
