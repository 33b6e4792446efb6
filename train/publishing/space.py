"""The folder of a Gradio Space: the page to try a published model in the browser, which lies elsewhere."""

import re
import shutil
from importlib.metadata import requires
from pathlib import Path

import yaml

from .folder import DISTRIBUTION, ROOT, requirements
from .hub import MODEL_VARIABLE

PAGE = ("app.py", "page_clara.py", "visit_clara.py")
SAMPLE = "data/samples/corpus.jsonl"
TEXT = """
# CLaRa

Paste or upload documents, or take the sample corpus; ask, and see which passages were read; look inside the
memories. The model is [{model}](https://huggingface.co/{model}): the Space's variable `{variable}` names it.
A private one needs a secret `HF_TOKEN` that may read it.
"""


def write_space(folder: Path, model: str) -> None:
    """Writes the page, the sample corpus that it offers, requirements, and README.md with the settings.

    Args:
        folder: An empty folder.
        model: Hub id of the published model that the Space shows.
    """
    for file in (*PAGE, SAMPLE, "LICENSE"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, folder / file)
    needed = requirements([ROOT / "app.py", *ROOT.glob("*_clara.py")], extra="app")
    (folder / "requirements.txt").write_text("\n".join(needed) + "\n", encoding="utf-8")
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
    entry = next(entry for entry in requires(DISTRIBUTION) or [] if entry.startswith("gradio"))
    numbers = re.search(r">=([\d.]+)", entry)[1].split(".")
    return ".".join([*numbers, "0", "0"][:3])
