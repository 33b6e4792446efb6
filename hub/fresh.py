"""Run as a script in a process of its own: does a folder answer without the package `clara`?

`python -c "$(cat fresh.py)" order.json result.json`; the order holds folder, device, question, documents and
generation arguments, the result the answer of each way in.
"""

import json
import sys
from pathlib import Path
from typing import Any


def answers(order: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The answer by `AutoModel` and by `pipeline`, each loaded anew."""
    from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

    folder, question, documents = order["folder"], order["question"], order["documents"]
    trusted = {"trust_remote_code": True}
    config = AutoConfig.from_pretrained(folder, **trusted)
    processor = AutoProcessor.from_pretrained(folder, **trusted)
    if processor.num_memory_tokens != config.num_memory_tokens:
        raise ValueError("the processor and the configuration differ in their number of memory tokens")
    found = {}
    model = AutoModel.from_pretrained(folder, **trusted).to(order["device"])
    out = model.generate(question, documents, return_dict_in_generate=True, **order["settings"])
    found["AutoModel"] = {
        "answer": out.answers,
        "ids": out.document_ids,
        "scores": out.scores.tolist(),
        "module": type(model).__module__,
    }
    del model
    rag = pipeline(model=folder, device=order["device"], **trusted)
    answer = rag(question=question, documents=documents, **order["settings"])
    ids, scores = ([document[key] for document in answer["documents"]] for key in ("id", "score"))
    found["pipeline"] = {"answer": answer["answer"], "ids": ids, "scores": scores}
    return found


if __name__ == "__main__":
    sys.modules["clara"] = None
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(answers(given)), encoding="utf-8")
