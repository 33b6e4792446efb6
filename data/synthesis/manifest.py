"""The manifest of an output folder: what it was made with, so that a rerun goes on only with the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAME = "synthesis.json"


def write_manifest(folder: str | Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, or checks that the one that is there says the same.

    Raises:
        ValueError: naming what differs, if the folder was made with other settings.
    """
    path = Path(folder) / NAME
    wanted = json.loads(json.dumps(manifest))
    if path.exists():
        there = read_manifest(folder)
        for name in sorted(there.keys() | wanted.keys()):
            if there.get(name) != wanted.get(name):
                raise ValueError(
                    f"`output` {folder} was begun with {name} = {there.get(name)!r}, not "
                    f"{wanted.get(name)!r}. Go on with the same settings, or name another folder."
                )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Reads the manifest of an output folder; empty if there is none."""
    path = Path(folder) / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
