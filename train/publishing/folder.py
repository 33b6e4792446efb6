"""The folder of a model repository, assembled from a checkpoint."""

import ast
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from ...configuration_clara import ClaraConfig
from ...modeling_clara import ClaraForRetrievalGeneration
from ...processing_clara import ClaraProcessor
from .card import EMBEDDED_BASES, base_id

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "clara-rag"
TEMPLATE = ROOT / "model_card.md"
# What the loader does not copy with the model's code: the handler and what it takes from beside the model.
HANDLER = ("handler.py", "requests_clara.py")
TEXT = (".json", ".md", ".py", ".txt", ".yaml", ".jinja")
AUTO_MAP = {
    "AutoConfig": f"configuration_clara.{ClaraConfig.__name__}",
    "AutoModel": f"modeling_clara.{ClaraForRetrievalGeneration.__name__}",
    "AutoProcessor": f"processing_clara.{ClaraProcessor.__name__}",
}


def write_model(model: ClaraForRetrievalGeneration, folder: Path, base: str | None = None) -> None:
    """Writes base, adapters, processor and code, the handler, the licence and the requirements.

    A base that lies in a folder of this machine loses its name: its weights are in the repository. The
    adapters' folders name the base by its Hub id, so that PEFT alone can load them.

    Args:
        model: The model, loaded without quantisation.
        folder: An empty folder.
        base: Hub id of the base, where the model names none.
    """
    config = model.config
    name, revision = config.base_model_name_or_path, config.base_model_revision
    if name not in EMBEDDED_BASES and base_id(name) is None:
        config.base_model_name_or_path = config.base_model_revision = None
    try:
        model.save_pretrained(folder)
    finally:
        config.base_model_name_or_path, config.base_model_revision = name, revision
    _set_fields(folder / "config.json", auto_map=AUTO_MAP)
    for file in folder.glob("*/adapter_config.json"):
        _set_fields(file, base_model_name_or_path=base or base_id(name))
    for file in (*HANDLER, "LICENSE"):
        shutil.copyfile(ROOT / file, folder / file)
    needed = "\n".join(requirements(folder.glob("*.py"))) + "\n"
    (folder / "requirements.txt").write_text(needed, encoding="utf-8")


def _set_fields(file: Path, **fields: Any) -> None:
    config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    text = json.dumps({**config, **fields}, indent=2, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")


def requirements(files: Iterable[Path], extra: str | None = None) -> list[str]:
    """The packages that Python files import, with this package's own version ranges, in order.

    Args:
        files: Python files.
        extra: An extra of this package whose ranges count too.
    """
    named = {module.split(".")[0] for file in files for module in _imports(file)}
    parts = [entry.partition(";") for entry in requires(DISTRIBUTION) or []]
    ranges = [entry for entry, _, rule in parts if "extra" not in rule or f'"{extra}"' in rule]
    wanted = {name.replace("-", "_").lower() for name in named - sys.stdlib_module_names}
    kept = [entry for entry in ranges if _distribution(entry) in wanted]
    return sorted(kept, key=str.lower)


def _imports(file: Path) -> Iterable[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def _distribution(entry: str) -> str:
    return re.match(r"[\w.-]+", entry)[0].replace("-", "_").lower()


def check_no_local_paths(folder: Path, paths: Iterable[str | Path]) -> None:
    """Refuses a folder whose texts name a place of this machine.

    Args:
        folder: What will be published.
        paths: The places, such as the checkpoint's folder.

    Raises:
        ValueError: If a file names one.
    """
    places = {str(Path(path).expanduser().resolve()) for path in (*paths, Path.home(), tempfile.gettempdir())}
    for file in sorted(folder.rglob("*")):
        if file.suffix not in TEXT or file.name in ("tokenizer.json", "vocab.json"):
            continue
        text = file.read_text(encoding="utf-8")
        found = [place for place in places if place.count("/") and len(place) > 1 and f"{place}/" in text]
        if found:
            raise ValueError(
                f"{file.relative_to(folder)} names a place of this machine ({found[0]}): take it out of the "
                "checkpoint's files, it would be published."
            )
