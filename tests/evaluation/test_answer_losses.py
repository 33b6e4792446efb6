"""Losses and answers from memories, against the model's own forward and generate."""

import torch
from clara.evaluation.experiments.scaling_curve import answer_losses
from clara.evaluation.language_models import ClaraModel, base_of
from clara.evaluation.readers import MemoryReader, TextReader, read_all
from conftest import DOCUMENTS, QUESTIONS, make_model

ANSWERS = [("1890",), ("Christiaan Huygens", "Huygens"), ("Leipzig",)]


def test_losses_are_those_of_forward_one_by_one(shared_model):
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    chosen = [[0, 1], [], [3]]
    memories = [memory.gather(row) for row in chosen]
    found = answer_losses(shared_model, QUESTIONS, [answers[0] for answers in ANSWERS], memories)
    for question, answers, rows, loss in zip(QUESTIONS, ANSWERS, memories, found, strict=True):
        slots = [[len(vectors) for vectors in rows]]
        batch = shared_model.processor.encode_prompts([question], slots, [answers[0]])
        given = torch.stack(rows) if rows else torch.zeros(0, 1, 32)
        with torch.no_grad():
            alone = shared_model(**batch, memory=given.unsqueeze(0)).loss
        assert abs(loss - float(alone)) < 1e-4


def test_memories_of_different_lengths_are_read_together(base):
    model = make_model(base, pooling="mean")
    memory = model.build_memory([" ".join(DOCUMENTS[:2]), DOCUMENTS[3][:12]], show_progress=False)
    rows = [memory.gather([0, 1]), memory.gather([1])]
    assert len({len(vectors) for row in rows for vectors in row}) == 2
    golds = [answers[0] for answers in ANSWERS[:2]]
    together = answer_losses(model, QUESTIONS[:2], golds, rows)
    apart = [
        answer_losses(model, [q], [a], [row])[0] for q, a, row in zip(QUESTIONS, golds, rows, strict=False)
    ]
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_answers_come_in_the_order_of_the_questions(shared_model):
    memory = shared_model.build_memory(DOCUMENTS, show_progress=False)
    reader = MemoryReader(ClaraModel(shared_model), memory)
    chosen = [[0, 1, 2], [2], [1, 0]]
    alone = [read_all(reader, [q], [row], 4)[0] for q, row in zip(QUESTIONS, chosen, strict=True)]
    assert read_all(reader, QUESTIONS, chosen, 4, batch_size=2) == alone
    documents = [DOCUMENTS[2]]
    assert alone[1] == shared_model.generate(QUESTIONS[1], documents, retrieval_top_k=1, max_new_tokens=4)


def test_text_readings_do_not_depend_on_the_batch(shared_model):
    reader, chosen = TextReader(base_of(shared_model), DOCUMENTS), [[0, 1], [2], [1, 4, 5]]
    assert read_all(reader, QUESTIONS, chosen, 4, 3) == read_all(reader, QUESTIONS, chosen, 4, 1)
