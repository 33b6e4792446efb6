"""Whether a folder does on its own: a clean copy, a fresh process, no network, no package `clara`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bases.folders import copy_or_link
from ..data.sample_corpus import sample_documents, sample_questions
from ..modeling_clara import ClaraForRetrievalGeneration
from . import fresh

TIMEOUT = 3600
TOLERANCE = 1e-3
SETTINGS = {"retrieval_top_k": 2, "max_new_tokens": 16}


def check_folder(folder: Path, model: ClaraForRetrievalGeneration) -> dict[str, Any]:
    """Loads a copy of the folder in a fresh process and compares its answers with the source model's.

    Args:
        folder: What will be published.
        model: The model that it was written from, on the device where both answer.

    Returns:
        The answer of each way in (`AutoModel`, `pipeline`).

    Raises:
        RuntimeError: If the folder does not load, or answers otherwise; the fresh process' last words are in
            the message.
    """
    question, documents = sample_questions()[0]["question"], sample_documents()[:5]
    found = run_fresh(folder, {"question": question, "documents": documents, "device": str(model.device)})
    out = model.generate(question, documents, return_dict_in_generate=True, **SETTINGS)
    expected = {"answer": out.answers, "ids": out.document_ids, "scores": out.scores.tolist()}
    for way, answer in found.items():
        _compare(way, answer, expected)
    if not found["AutoModel"]["module"].startswith("transformers_modules."):
        raise RuntimeError(f"the code did not come from {folder}, but from {found['AutoModel']['module']}.")
    return found


def run_fresh(folder: Path, order: Mapping[str, Any]) -> dict[str, Any]:
    """The answers of a fresh process that sees a copy of the folder, empty caches and no network."""
    with tempfile.TemporaryDirectory(prefix=".check-", dir=folder.parent) as name:
        work = Path(name).absolute()  # the fresh process starts in it
        copy = shutil.copytree(folder, work / "published-model", copy_function=copy_or_link)
        asked, told = work / "order.json", work / "result.json"
        asked.write_text(json.dumps({**order, "folder": str(copy), "settings": SETTINGS}), encoding="utf-8")
        code = Path(fresh.__file__).read_text(encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", code, str(asked), str(told)],
            cwd=work,
            env=_environment(work, order["device"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        if done.returncode:
            last = " / ".join(done.stderr.strip().splitlines()[-3:])
            raise RuntimeError(f"the assembled folder does not load in a fresh process: {last}")
        return json.loads(told.read_text(encoding="utf-8"))


def _environment(work: Path, device: str) -> dict[str, str]:
    """The environment without anything that a user's caches, memories or token could lend to the folder."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "CLARA_"))}
    caches = {
        "HF_HOME": work / "home",
        "HF_MODULES_CACHE": work / "modules",
        "XDG_CACHE_HOME": work / "cache",
    }
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        offline["CUDA_VISIBLE_DEVICES"] = ""
    return {**own, **offline, **{key: str(path) for key, path in caches.items()}}


def _compare(way: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    apart = [abs(a - b) for a, b in zip(found["scores"], expected["scores"], strict=False)]
    same = found["answer"] == expected["answer"] and found["ids"] == expected["ids"]
    if not same or max(apart) > TOLERANCE:
        raise RuntimeError(
            f"the assembled folder answers otherwise by {way}: {found['answer']!r} from {found['ids']}, the "
            f"checkpoint {expected['answer']!r} from {expected['ids']} (cosines apart by {max(apart):.2g})."
        )
