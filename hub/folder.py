"""The folder of a model repository, assembled from a checkpoint."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import __version__
from ..configuration_clara import ClaraConfig
from ..modeling_clara import ClaraForRetrievalGeneration
from ..processing_clara import ClaraProcessor
from .card import EMBEDDED_BASES, base_id

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = f"clara-rag=={__version__}"
TEMPLATE = ROOT / "model_card.md"
HANDLER = "from clara.hub.endpoint import EndpointHandler  # noqa: F401\n"
TEXT = (".json", ".md", ".py", ".txt", ".yaml", ".jinja")
AUTO_MAP = {
    "AutoConfig": f"configuration_clara.{ClaraConfig.__name__}",
    "AutoModel": f"modeling_clara.{ClaraForRetrievalGeneration.__name__}",
    # `pipeline("text-generation")`, whose `generate` gets token ids and no documents: the plain base.
    "AutoModelForCausalLM": f"modeling_clara.{ClaraForRetrievalGeneration.__name__}",
    "AutoProcessor": f"processing_clara.{ClaraProcessor.__name__}",
}


def write_model(model: ClaraForRetrievalGeneration, folder: Path, base: str | None = None) -> None:
    """Writes base, adapters, processor, code and licence.

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
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")


def write_endpoint(folder: Path) -> None:
    """Adds what Inference Endpoints looks for: handler.py, and the package that it imports."""
    (folder / "handler.py").write_text(HANDLER, encoding="utf-8")
    (folder / "requirements.txt").write_text(f"{PACKAGE}\n", encoding="utf-8")


def _set_fields(file: Path, **fields: Any) -> None:
    config: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    text = json.dumps({**config, **fields}, indent=2, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")


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
