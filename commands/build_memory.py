"""Compress documents from files into a corpus memory that `clara ask` answers from.

Reads .txt, .md, .jsonl and .parquet files and folders of them. A text or Markdown file is one document; of
the others each row is one, with `text` and optionally `id`, `title` and metadata.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from .models import add_model_arguments, load_model, warn_untrained

if TYPE_CHECKING:
    from ..modeling_clara import ClaraForRetrievalGeneration

FORMATS = ("float32", "bfloat16", "float16", "int8", "int4")
BATCHES_PER_CHUNK = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `clara build-memory`."""
    parser.add_argument("paths", nargs="+", metavar="FILE_OR_FOLDER")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the corpus memory goes")
    add_model_arguments(parser)
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="passages compressed at once (default: 16)"
    )
    parser.add_argument("--dtype", choices=FORMATS, help="of the stored memories (default: the model's)")


def run(arguments: argparse.Namespace) -> None:
    """Streams the documents through the compressor into the store."""
    from ..data.documents import count_documents, read_documents

    if arguments.batch_size < 1:
        raise ValueError(f"`--batch-size` must be at least 1, got {arguments.batch_size}.")
    total = count_documents(arguments.paths)
    documents = read_documents(arguments.paths)
    model, trained = load_model(arguments.model, arguments.device)
    warn_untrained(trained)
    passages = compress(model, documents, total, arguments)
    print(f"{total} documents ({passages} passages) are in {arguments.output}.")


def compress(
    model: ClaraForRetrievalGeneration,
    documents: Iterable[dict[str, Any]],
    total: int,
    arguments: argparse.Namespace,
) -> int:
    """Compresses chunk by chunk, so that only one chunk is in memory; returns the number of passages."""
    from tqdm.auto import tqdm

    from ..memory_clara import CorpusMemoryWriter

    base = {"name": model.config.base_model_name_or_path, "revision": model.config.base_model_revision}
    with (
        CorpusMemoryWriter(
            arguments.output, model.memory_fingerprint(), base, dtype=arguments.dtype
        ) as writer,
        tqdm(total=total, desc="compressing", unit="document") as bar,
    ):
        for chunk in chunks(documents, BATCHES_PER_CHUNK * arguments.batch_size):
            part = model.build_memory(chunk, batch_size=arguments.batch_size, show_progress=False)
            writer.add(part[:], part.texts, part.document_ids, part.metadata, part.parents, part.orders)
            bar.update(len(chunk))
            bar.set_postfix(passages=len(writer))
        return len(writer.finish())


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
