"""The folder of a model repository, assembled from a checkpoint, and of a Space that shows such a model."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..configuration_clara import ClaraConfig
from ..data.sample_corpus import sample_documents
from ..modeling_clara import ClaraForRetrievalGeneration
from ..processing_clara import ClaraProcessor
from .card import EMBEDDED_BASES, base_id
from .upload import MODEL_VARIABLE

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
    """Raises a ValueError if a text of a folder names a place of this machine, such as the checkpoint's."""
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


SAMPLE = "sample"
APP = f'''"""The page of the package `clara-rag`, on the model that the Space's variable names."""

import os
from pathlib import Path

from clara.hub.space.app import Page, build, launch
from transformers import AutoModel

model = AutoModel.from_pretrained(os.environ["{MODEL_VARIABLE}"], trust_remote_code=True)
launch(build(Page(model, trained=True, made=Path(__file__).with_name("{SAMPLE}"))))
'''
PAGE = """
# CLaRa

Drop documents on the page, or take the sample corpus; ask, and see which passages were read; look inside the
memories. The model is [{model}](https://huggingface.co/{model}): the Space's variable `{variable}` names it.
A private one needs a secret `HF_TOKEN` that may read it.
"""


def write_space(folder: Path, model: str, loaded: Any = None) -> None:
    """Writes app.py, requirements.txt, the licence, and README.md with the Space's settings.

    The Space shows the published model of that Hub id. If the model is `loaded`, the sample corpus comes
    compressed (int8, about 1 MB for a width of 576); else the Space compresses it at its first visit.
    """
    if loaded is not None:
        sample = loaded.build_memory(sample_documents(), dtype="int8", show_progress=False)
        sample.save_pretrained(folder / SAMPLE)
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    (folder / "app.py").write_text(APP, encoding="utf-8")
    package = PACKAGE.replace("==", "[app,documents]==")
    (folder / "requirements.txt").write_text(f"{package}\n", encoding="utf-8")
    settings = {
        "title": model.partition("/")[2],
        "sdk": "gradio",
        "sdk_version": gradio_version(),
        "app_file": "app.py",
        "license": "apache-2.0",
        "models": [model],
        "short_description": "Documents as memories: searched, read and looked into",
    }
    head = yaml.safe_dump(settings, sort_keys=False)
    text = PAGE.format(model=model, variable=MODEL_VARIABLE)
    (folder / "README.md").write_text(f"---\n{head}---\n{text}", encoding="utf-8")


def gradio_version() -> str:
    """The oldest gradio that this package's range allows, in full, as a Space wants it."""
    entry = next(entry for entry in requires("clara-rag") or [] if entry.startswith("gradio"))
    numbers = re.search(r">=([\d.]+)", entry)[1].split(".")
    return ".".join([*numbers, "0", "0"][:3])
