"""The folder of a Gradio Space: the page to try a published model in the browser, which lies elsewhere."""

import re
import shutil
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import yaml

from ..data.sample_corpus import sample_documents
from .folder import PACKAGE, ROOT
from .upload import MODEL_VARIABLE

SAMPLE = "sample"
APP = f'''"""The page of the package `clara-rag`, on the model that the Space's variable names."""

import os
from pathlib import Path

from clara.hub.space.app import Page, build, launch
from transformers import AutoModel

model = AutoModel.from_pretrained(os.environ["{MODEL_VARIABLE}"], trust_remote_code=True)
launch(build(Page(model, trained=True, made=Path(__file__).with_name("{SAMPLE}"))))
'''
TEXT = """
# CLaRa

Drop documents on the page, or take the sample corpus; ask, and see which passages were read; look inside the
memories. The model is [{model}](https://huggingface.co/{model}): the Space's variable `{variable}` names it.
A private one needs a secret `HF_TOKEN` that may read it.
"""


def write_space(folder: Path, model: str, loaded: Any = None) -> None:
    """Writes app.py, requirements.txt, the licence, and README.md with the Space's settings.

    Args:
        folder: An empty folder.
        model: Hub id of the published model that the Space shows.
        loaded: The model itself, if it is at hand: the sample corpus then comes compressed (int8, about 1 MB
            for a width of 576); else the Space compresses it at its first visit.
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
    text = TEXT.format(model=model, variable=MODEL_VARIABLE)
    (folder / "README.md").write_text(f"---\n{head}---\n{text}", encoding="utf-8")


def gradio_version() -> str:
    """The oldest gradio that this package's range allows, in full, as a Space wants it."""
    entry = next(entry for entry in requires("clara-rag") or [] if entry.startswith("gradio"))
    numbers = re.search(r">=([\d.]+)", entry)[1].split(".")
    return ".".join([*numbers, "0", "0"][:3])
