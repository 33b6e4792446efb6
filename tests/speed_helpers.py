"""Amounts of work that a tiny model does in a moment."""

from clara.evaluation.speed.workload import Sizes

TINY = Sizes(
    passages=5,
    batch_size=2,
    passage_tokens=(20, 40),
    padded=64,
    store=7,
    document_tokens=50,
    documents=(1, 6),
    new_tokens=3,
    answers=5,
    answer_tokens=3,
    alone=2,
    searched=(20,),
    candidates=6,
    questions=2,
    rows=2,
    signals=3,
    bucket_rows=5,
    bucket_batch=2,
)
