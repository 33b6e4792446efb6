"""One-line changes that make the core wrong, each of which must make a test fail: see mutations.py.

The place is "root" (whichever `*_clara.py` holds the line) or a file, in which the old text occurs once.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A change of one line."""

    place: str
    old: str
    new: str


COLLATION, LOSSES, TRAINER = "data/collation.py", "train/losses.py", "train/trainer.py"
GROUPS, MEMORIES, COLLATORS = "train/groups.py", "train/memories.py", "train/collators.py"
SYSTEMS, STATISTICS, RUN = "evaluation/systems.py", "evaluation/statistics.py", "train/run.py"
STORE, SCHEMA, SEARCH, COMMITS = "store/store.py", "store/schema.py", "store/search.py", "store/commits.py"

MUTANTS = [
    Mutant(*change)
    for change in (
        # retrieval
        ("root", "counts = (lengths + rate - 1) // rate\n", "counts = lengths // rate\n"),
        (
            "root",
            "span = (mask.long().cumsum(dim=-1) - 1) // rate",
            "span = mask.long().cumsum(dim=-1) // rate",
        ),
        ("root", "if factor == 1:\n        return memories", "if factor <= 2:\n        return memories"),
        ("root", "own.sum(dim=-2).clamp(min=1)", "own.sum(dim=-2).clamp(min=2)"),
        ("root", "logits = scores.float() / temperature\n", "logits = scores.float() * temperature\n"),
        ("root", "taken = taken.scatter(-1, index, True)", "taken = taken.scatter(-1, index, False)"),
        (
            "root",
            "weights.append(hard + (soft - soft.detach()))",
            "weights.append(hard + (soft - soft).detach())",
        ),
        (
            "root",
            "argsort(dim=-1, descending=True, stable=True)",
            "argsort(dim=-1, descending=False, stable=True)",
        ),
        # adapters
        ("root", "    finally:\n        _wear(decoder, before)", "    finally:\n        _wear(decoder, [])"),
        (
            "root",
            "    decoder.requires_grad_(False)\n    for parameter in [*trainable_adapters",
            "    for parameter in [*trainable_adapters",
        ),
        ("root", "    forget(tuner_layers(decoder), [name])\n", "    forget(tuner_layers(decoder), [])\n"),
        ("root", "not 1 <= rank <= MAX_RANK", "not 0 <= rank <= MAX_RANK"),
        ("root", "weight.float() + layer.scaling[name] * delta", "weight.float() + delta"),
        (
            "root",
            "if layer.__dict__[VERSIONS][name] != _adapter",
            "if layer.__dict__[VERSIONS][name] == _adapter",
        ),
        ("root", "head = _head(model.config) + repr([scaling", "head = repr([scaling"),
        ("root", "int((columns * torch.arange(PERIOD", "int((columns + torch.arange(PERIOD"),
        # modeling
        ("root", "(ones.cumsum(dim=-1) - 1).clamp(min=0)", "ones.cumsum(dim=-1).clamp(min=0)"),
        ("root", "own = (key == 0) | (key == query)", "own = (key >= 0) | (key == query)"),
        (
            "root",
            "return segment_attention(segments).sum(dim=-1) - 1",
            "return segment_attention(segments).sum(dim=-1)",
        ),
        ("root", "return torch.cat(logits)[order.argsort()]", "return torch.cat(logits)[order]"),
        ("root", "keep = labels[:, 1:] != IGNORE_INDEX", "keep = labels[:, :-1] != IGNORE_INDEX"),
        (
            "root",
            "estimator = config.retrieval_estimator if self.training",
            "estimator = config.retrieval_estimator if not self.training",
        ),
        ("root", "wanted = wanted if self.training else None", "wanted = wanted"),
        (
            "root",
            "given = memories.counts if mask is None else memories.counts * mask",
            "given = memories.counts",
        ),
        (
            "root",
            "masked_scatter(input_ids == SLOT_ID, chosen.mask",
            "masked_scatter(input_ids == SLOT_ID, ~chosen.mask",
        ),
        (
            "root",
            "return total / (len(targets) if num_items is None else num_items)",
            "return total / len(targets)",
        ),
        (
            "root",
            "functional.rms_norm(rows.float(), rows.shape[-1:], eps=1e-6) * gain",
            "functional.rms_norm(rows.float(), rows.shape[-1:], eps=1e-6)",
        ),
        (
            "root",
            'return self._encode("query_reasoner", input_ids',
            'return self._encode("compressor", input_ids',
        ),
        # processing
        (
            "root",
            'if len(parts) == 1 else [f"{document_id}#{i}"',
            'if len(parts) <= 2 else [f"{document_id}#{i}"',
        ),
        (
            "root",
            "self._check_lengths(ids, limit, name, way_out)",
            "self._check_lengths(ids, limit + 1, name, way_out)",
        ),
        ("root", "return ((vectors + factor - 1) // factor).tolist()", "return (vectors // factor).tolist()"),
        ("root", "labels = [[i if told else IGNORE_INDEX for", "labels = [[i for"),
        (
            "root",
            "return [[*row, self.tokenizer.eos_token_id] for row in found]",
            "return [[*row] for row in found]",
        ),
        (COLLATION, "segment = number if len(texts) > 1 else 0", "segment = 1 if len(texts) > 1 else 0"),
        ("root", "sorted(indices, key=lambda i: passages.orders[i], reverse=True)", "sorted(indices)[::-1]"),
        (
            "root",
            "[[value] * (width - len(row)) + row for row in rows]",
            "[row + [value] * (width - len(row)) for row in rows]",
        ),
        # prompts
        (
            "root",
            "ids += (between if number else []) + [SLOT_ID] * count",
            "ids += between + [SLOT_ID] * count",
        ),
        (
            "root",
            "if not has_specials(tokenizer, text):\n        return [piece",
            "if True:\n        return [piece",
        ),
        ("root", "if 2 * taken > limit:", "if taken > 2 * limit:"),
        (
            "root",
            "return [bos] if bos is not None and ids[:1] == [bos] else []",
            "return [bos] if bos is not None else []",
        ),
        # memory
        (
            "root",
            "offsets = torch.cat([self.offsets, other.offsets[1:] + self.offsets[-1]])",
            "offsets = torch.cat([self.offsets, other.offsets[1:]])",
        ),
        ("root", "if other.fingerprint != self.fingerprint:", "if other.fingerprint == self.fingerprint:"),
        ("root", "and file_digest(new) == named[name]:", "and file_digest(new) != named[name]:"),
        (
            "store/ranking.py",
            "(cosine - low) / (high - low)",
            "(cosine - low) / high",
        ),
        # losses
        (
            LOSSES,
            "logits, positives = logits[counted], positives[counted]",
            "logits, positives = logits, positives",
        ),
        (LOSSES, "positives.sum(dim=-1)).mean()", "positives.sum()).mean()"),
        (LOSSES, "teacher_scores.float() / teacher_temperature", "teacher_scores.float() / temperature"),
        # collators and pools
        (
            COLLATION,
            'draw = random.Random(f"{self.seed}-match-{item.epoch}-{item.index}")',
            'draw = random.Random(f"{self.seed}-match-{item.index}")',
        ),
        (
            COLLATION,
            "texts = list(dict.fromkeys([*gold, *record.documents]))",
            "texts = list(dict.fromkeys(record.documents))",
        ),
        (
            COLLATION,
            "epoch, index = divmod(key, len(self.records))",
            "index = key % len(self.records); epoch = 0",
        ),
        (MEMORIES, "starts.unsqueeze(-1) + places, 0)]", "starts.unsqueeze(-1) + places - 1, 0)]"),
        (MEMORIES, "usable &= ~same.tril(-1).any(dim=-1)", "usable &= ~same.tril(0).any(dim=-1)"),
        (
            COLLATORS,
            "match_questions=args.matched_questions if args.contrastive_weight else 0,",
            "match_questions=0,",
        ),
        # trainer
        (
            TRAINER,
            'total = total + shares["documents"] * args.alignment_weight',
            "total = total + args.alignment_weight",
        ),
        (
            TRAINER,
            'total = total + shares["questions"] * args.contrastive_weight',
            'total = total + shares["rows"] * args.contrastive_weight',
        ),
        (TRAINER, "if not torch.isfinite(loss):", "if torch.isnan(loss):"),
        (
            GROUPS,
            'documents = len(batch.get("document_input_ids", ())) if shown is None else int(shown.sum())',
            'documents = len(batch.get("document_input_ids", ()))',
        ),
        # store
        (STORE, 'sql = f"parent IN ({names}) OR id IN ({names})"', 'sql = f"parent IN ({names})"'),
        (SCHEMA, '"\'" + value.replace("\'", "\'\'") + "\'"', '"\'" + value + "\'"'),
        (
            SCHEMA,
            "split = len(content) - 2 * count * facts.scales",
            "split = len(content) - count * facts.scales",
        ),
        (
            COMMITS,
            'clash = ids_where(dataset, sql, "parent") - set(memory.parents)',
            'clash = ids_where(dataset, sql, "parent")',
        ),
        (SEARCH, "indices[order].tolist(), scores[order]", "indices[order].tolist(), scores[::-1]"),
        # what no test noticed in November 2026, where the line is now
        ("root", "attend, places = own, positions(own)", "attend, places = own, None"),
        (
            "root",
            "return nullcontext(), wearing(decoder, *worn_adapters(decoder))",
            "return nullcontext(), nullcontext()",
        ),
        ("root", "layer.train(layer.get_base_layer().training)", "layer.train()"),
        (
            "root",
            "head + _slots(processor, slots), True, processor.memory_suffix",
            'head + _slots(processor, slots), True, ""',
        ),
        ("root", "        os.fsync(number)\n", "        number\n"),
        ("root", "head = (config.pooling, config.num_memory_tokens,", "head = (config.num_memory_tokens,"),
        (TRAINER, "outputs.loss * (self.args.world_size if everywhere else 1)", "outputs.loss"),
        (
            TRAINER,
            'inputs.get("memory_mask"), self.model.config.retrieval_temperature',
            'inputs.get("memory_mask"), 1.0',
        ),
        (TRAINER, 'mask, temperature = inputs.get("memory_mask"),', "mask, temperature = None,"),
        (TRAINER, "found[2], args.contrastive_positives)", 'found[2], "any")'),
        (TRAINER, "if args.positives_are_read:", "if not args.positives_are_read:"),
        ("train/checkpoints.py", "os.fsync(file.fileno())", "file.fileno()"),
        (RUN, "args.resume_from_checkpoint or True", "args.resume_from_checkpoint"),
        (
            "train/text_baseline.py",
            "trainer.train(resume_from_checkpoint=True)",
            "trainer.train()",
        ),
        (
            COLLATION,
            'draws = [random.Random(f"{self.seed}-{item.epoch}-{item.index}")',
            'draws = [random.Random(f"{self.seed}-{item.index}")',
        ),
        ("evaluation/ranking.py", "min(len(set(positives)), k)", "min(len(positives), k)"),
        (STATISTICS, "default_rng(seed)\n    draws", "default_rng(0)\n    draws"),
        (STATISTICS, "default_rng(seed)\n    reached", "default_rng(0)\n    reached"),
        (
            STATISTICS,
            "paired_permutation(first, second, resamples, seed)",
            "paired_permutation(first, second, resamples, 0)",
        ),
        (SYSTEMS, "in (*example.pool, *example.positives) for part", "in example.pool for part"),
        (SYSTEMS, "zlib.crc32(example.id.encode())", "0"),
        ("serving/engine.py", "setdefault((id(request.memory), ", "setdefault(("),
        # what a run is stopped or bent by, found on 2026-11-28
        ("train/past.py", "ids[mask].numpy()", "ids.numpy()"),
        ("train/memories.py", "len({places[text] for text in record.documents})", "len(record.documents)"),
        ("train/checks.py", "encode([pair]))[-most:]", "encode([pair]))[:1]"),
        ("train/memories.py", "if against_all and candidates", "if not against_all and candidates"),
        (TRAINER, 'shares["rows"] * args.retrieval', "args.retrieval"),
    )
]
