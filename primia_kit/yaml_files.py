"""YAML files that a person writes: a mapping of known keys, or a sentence on what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import KitError, nearest

_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


def read_mapping(path: str | Path, what: str, keys: Sequence[str], required: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file whose keys are all known.

    1e-3 is a number here, as it is to people, YAML 1.2 and JSON; YAML 1.1 (PyYAML) takes it for a text, since it has no point.

    Args:
        what: the file is, for sentences, e.g. "sweep".
        required: keys that it must have.

    Raises: KitError that names the key, and for an unknown one the nearest right one.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}  # noqa: RUF012

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)  # a SafeLoader: it makes plain values alone
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"Can't read the {what} {path}: {error}.") from error
    except yaml.YAMLError as error:
        raise KitError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise KitError(f"{path} must have the keys {', '.join(required or keys)}.")
    for key in content:
        if key not in keys:
            raise KitError(f"{path} has an unknown key {key!r}{nearest(str(key), keys)}; a {what} has {', '.join(keys)}.")
    for key in required:
        if key not in content:
            raise KitError(f"{path} lacks the key {key}.")
    return content
