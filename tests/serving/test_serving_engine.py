"""Continuous batching gives the answers of `model.generate`, whoever joins or leaves meanwhile."""

import queue
import threading

import pytest
import torch
from clara.prompts_clara import NOT_FOUND
from clara.serving.batch import RunningBatch
from clara.serving.candidates import Candidates
from clara.serving.engine import ClosingError, Engine, QueueFullError
from clara.serving.requests import DONE, FAILED, FOUND, PIECE, EngineRequest, Finished, Options
from conftest import DOCUMENTS, QUESTIONS, make_model, save_base

MANY = [f"{question} {word}" for word in ("", "Tell me now.", "Please.") for question in QUESTIONS]
FIVE = Options(max_new_tokens=5)


@pytest.fixture(scope="module")
def memory(shared_model):
    return shared_model.build_memory(DOCUMENTS, show_progress=False)


@pytest.fixture
def engine(shared_model):
    made = Engine(shared_model, max_batch=4, gather_seconds=0.05)
    made.start()
    yield made
    made.close(drain=False, timeout=30)


class Asked:
    """A request with its events."""

    def __init__(self, question, memory, k=2, options=FIVE, **more):
        self.events = queue.Queue()
        self.request = EngineRequest(question, memory, self.events.put, k, options, **more)

    def all(self):
        events = []
        while not events or events[-1].kind not in (DONE, FAILED):
            events.append(self.events.get(timeout=60))
        return events

    def done(self):
        last = self.all()[-1]
        assert last.kind == DONE, last
        return last.value


def ask(engine, questions, memory, **kwargs):
    asked = [Asked(question, memory, **kwargs) for question in questions]
    for one in asked:
        engine.submit(one.request)
    return asked


def test_answers_are_those_of_generate_though_rows_come_and_go(engine, shared_model, memory):
    lengths = [3, 9, 5, 1, 12, 7, 2, 8, 4]
    asked = [
        Asked(q, memory, k, Options(max_new_tokens=n))
        for q, n, k in zip(MANY, lengths, [1, 2, 3] * 3, strict=True)
    ]
    for one in asked:
        engine.submit(one.request)
    for one, n, k in zip(asked, lengths, [1, 2, 3] * 3, strict=True):
        wanted = shared_model.generate(one.request.question, memory, retrieval_top_k=k, max_new_tokens=n)
        assert one.done().answer == wanted
    assert engine.row_steps > engine.steps  # they did share steps


def test_each_memory_is_read_alone_beside_others_and_the_likeliest_answer_stays(
    engine, shared_model, memory, monkeypatch
):
    step = engine._batch.step
    broken = iter([True])  # the first step fails: every row is read again, each its own memory

    def once(tokens):
        if len(tokens) > 1 and next(broken, False):
            raise RuntimeError("no memory left")
        return step(tokens)

    monkeypatch.setattr(engine._batch, "step", once)
    modes = ["each", "together", "each", "together", "each"]
    asked = [Asked(q, memory, 3, reading=how) for q, how in zip(MANY[:5], modes, strict=True)]
    for one in asked:
        engine.submit(one.request)
    for one, how in zip(asked, modes, strict=True):
        wanted = shared_model.generate(
            one.request.question, memory, 3, reading=how, max_new_tokens=5, return_dict_in_generate=True
        )
        found, *pieces, done = one.all()
        assert done.value.answer == wanted.answers and found.value.document_ids == wanted.document_ids
        assert how == "together" or [piece.value for piece in pieces] == [wanted.answers]
    assert engine.steps < 5 * 5 and engine.row_steps > 3 * engine.steps // 2
    gone = Asked(MANY[0], memory, 3, Options(max_new_tokens=400, min_new_tokens=400), reading="each")
    engine.submit(gone.request)
    assert gone.events.get(timeout=60).kind == FOUND
    gone.request.cancel()
    assert ask(engine, QUESTIONS[:1], memory)[0].done() and engine.running <= 1


@pytest.mark.parametrize("least", [-1e9, 12.0, 14.0, 1e9])
def test_a_question_to_which_no_memory_holds_an_answer_is_refused_as_by_the_model(
    engine, shared_model, memory, monkeypatch, least
):
    monkeypatch.setattr(shared_model.config, "reading_min_score", least)
    asked = [Asked(question, memory, 3, reading="each") for question in MANY[:5]]
    for one in asked:
        engine.submit(one.request)
    answers = [one.done().answer for one in asked]
    assert answers == shared_model.generate(MANY[:5], memory, 3, reading="each", max_new_tokens=5)
    assert least != 1e9 or set(answers) == {NOT_FOUND}
    assert least != -1e9 or NOT_FOUND not in answers


@pytest.mark.parametrize("joint", [-1e6, 0.0, 1e6])
def test_memories_are_read_together_as_one_more_answer_as_by_the_model(
    engine, shared_model, memory, monkeypatch, joint
):
    monkeypatch.setattr(shared_model.config, "reading_joint", joint)
    asked = [Asked(question, memory, 3, reading="each") for question in MANY[:5]]
    assert engine.rows(asked[0].request) == 4 == engine.readings(3) and engine.readings(1) == 1
    for one in asked:
        engine.submit(one.request)
    answers = [one.done().answer for one in asked]
    assert answers == shared_model.generate(MANY[:5], memory, 3, reading="each", max_new_tokens=5)
    together = shared_model.generate(MANY[:5], memory, 3, reading="together", max_new_tokens=5)
    assert (answers == together) == (joint == 1e6)


@pytest.mark.parametrize(("least", "told"), [(None, "far"), (6.0, "near"), (6.6, NOT_FOUND)])
def test_an_answer_that_nothing_was_found_comes_last_or_is_decided_by_the_odds(least, told):
    asked = Asked("Why?", None, reading="each")
    near, far = Candidates(asked.request, [0.9, 0.5], 2, least).requests()
    far.tell(DONE, Finished("far", "stop", 3, -1.0, 1.5))
    answer = NOT_FOUND if least is None else "near"
    near.tell(DONE, Finished(answer, "stop", 2, -2.0, -2.5))  # -2.5 + 0.9 / 0.1 against 1.5 + 0.5 / 0.1
    assert [event.value for event in asked.all()][0] == told


def test_the_likeliest_answer_is_that_of_probability_and_cosine():
    asked = Asked("Why?", None, reading="each")
    near, far = Candidates(asked.request, [0.9, 0.5], 2).requests()
    far.tell(DONE, Finished("far", "stop", 3, -1.0))
    assert asked.events.empty()
    near.tell(DONE, Finished("near", "stop", 2, -2.0))
    assert [event.value for event in asked.all()][0] == "near"  # -2 + 0.9 / 0.1 against -1 + 0.5 / 0.1
    far.cancel()
    assert asked.request.cancelled and near.cancelled


@pytest.mark.parametrize("kind", ["gemma3", "qwen3", "phi3", "granite"])
def test_other_bases_too_with_their_sliding_windows_and_norms(kind, tmp_path):
    model = make_model(save_base(tmp_path, kind))
    store = model.build_memory(DOCUMENTS, show_progress=False)
    engine = Engine(model, max_batch=2)
    asked = [Asked(q, store, 3, Options(max_new_tokens=n)) for q, n in zip(QUESTIONS, (4, 9, 6), strict=True)]
    for one in asked:
        engine.submit(one.request)
    engine.start()
    for one in asked:
        length = one.request.options.max_new_tokens
        wanted = model.generate(one.request.question, store, retrieval_top_k=3, max_new_tokens=length)
        assert one.done().answer == wanted
    engine.close()


def test_prompts_that_come_together_are_read_in_bounded_passes(shared_model, memory, monkeypatch):
    wanted = {q: shared_model.generate(q, memory, retrieval_top_k=2, max_new_tokens=5) for q in MANY}
    passes, real = [], RunningBatch._pass

    def seen(batch, cache, mask, **inputs):
        passes.extend([tuple(mask.shape)] if "inputs_embeds" in inputs else [])
        return real(batch, cache, mask, **inputs)

    monkeypatch.setattr(RunningBatch, "_pass", seen)
    monkeypatch.setattr("clara.serving.batch.READ_TOKENS", 500)
    engine = Engine(shared_model, max_batch=len(MANY))
    asked = ask(engine, MANY, memory)
    engine.start()
    assert [one.done().answer for one in asked] == [wanted[q] for q in MANY]
    engine.close()
    assert sum(rows for rows, _ in passes) == len(MANY)
    assert max(rows for rows, _ in passes) > 1
    assert all(rows * length <= 500 for rows, length in passes)


def test_questions_of_two_memories_are_each_answered_from_their_own(shared_model):
    """They come together and ask for equally many passages; nobody reads another's."""
    names = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
    texts = {"a": DOCUMENTS[:3], "b": DOCUMENTS[3:]}
    engine, asked = Engine(shared_model, max_batch=2), {}
    for key in "ab":
        store = shared_model.build_memory(texts[key], document_ids=names[key], show_progress=False)
        (asked[key],) = ask(engine, QUESTIONS[:1], store)
    engine.start()
    for key, one in asked.items():
        (found,) = (event.value for event in one.all() if event.kind == FOUND)
        assert set(found.document_ids) < set(names[key])
    engine.close()


def test_merged_adapters_answer_alike_and_documents_are_compressed_as_before(base):
    model = make_model(base)
    store = model.build_memory(DOCUMENTS, show_progress=False)
    wanted = model.generate(QUESTIONS, store, retrieval_top_k=2, max_new_tokens=9)
    model.merge_adapters()
    engine = Engine(model, max_batch=2)
    asked = ask(engine, QUESTIONS, store, options=Options(max_new_tokens=9))
    engine.start()
    assert [one.done().answer for one in asked] == wanted
    engine.close()
    again = model.build_memory(DOCUMENTS, show_progress=False)
    assert again.fingerprint == store.fingerprint
    assert torch.equal(again.values, store.values) and torch.equal(again.offsets, store.offsets)


def test_events_come_in_order_and_pieces_add_up(engine, shared_model, memory):
    events = ask(engine, QUESTIONS[:1], memory, options=Options(max_new_tokens=20))[0].all()
    assert events[0].kind == FOUND and events[-1].kind == DONE
    assert {event.kind for event in events[1:-1]} <= {PIECE}
    assert "".join(event.value for event in events[1:-1]) == events[-1].value.answer
    hits = shared_model.retrieve(QUESTIONS[0], memory, retrieval_top_k=2)
    found = events[0].value
    assert found.document_ids == hits.document_ids
    assert found.texts == [DOCUMENTS[index] for index in hits.indices]
    assert found.scores == pytest.approx(hits.scores.tolist())


def test_min_new_tokens_and_length(engine, memory):
    done = ask(engine, QUESTIONS[:1], memory, options=Options(max_new_tokens=30, min_new_tokens=30))[0].done()
    assert done.tokens == 30 and done.reason == "length"


def test_stop_text_ends_the_answer_before_it(engine, memory):
    whole = ask(engine, QUESTIONS[:1], memory, options=Options(max_new_tokens=30))[0].done().answer
    stop = whole[4:6]
    cut = ask(engine, QUESTIONS[:1], memory, options=Options(max_new_tokens=30, stop=(stop,)))[0].all()
    assert cut[-1].value.answer == whole[: whole.index(stop)].strip()
    assert cut[-1].value.reason == "stop"
    assert "".join(event.value for event in cut if event.kind == PIECE) == cut[-1].value.answer


def test_drawn_answers_follow_their_seed_whatever_the_batch(engine, memory):
    hot = Options(max_new_tokens=8, temperature=1.5, top_p=0.9, seed=7)
    alone = ask(engine, QUESTIONS[:1], memory, options=hot)[0].done().answer
    crowd = ask(engine, [QUESTIONS[0], *QUESTIONS[1:]], memory, options=hot)
    assert crowd[0].done().answer == alone
    other = ask(engine, QUESTIONS[:1], memory, options=Options(max_new_tokens=8, temperature=1.5, seed=8))
    assert other[0].done().answer != alone


def test_a_bad_question_fails_alone(engine, shared_model, memory):
    asked = ask(engine, [QUESTIONS[0], "word " * 3000, QUESTIONS[1]], memory)
    last = asked[1].all()[-1]
    assert last.kind == FAILED and "limit" in str(last.value)
    for one in (asked[0], asked[2]):
        assert one.done().answer == shared_model.generate(
            one.request.question, memory, retrieval_top_k=2, max_new_tokens=5
        )


def test_a_broken_step_fails_its_answers_and_the_engine_goes_on(engine, memory, monkeypatch):
    def broken(tokens):
        raise RuntimeError("no memory left")

    monkeypatch.setattr(engine._batch, "step", broken)
    assert ask(engine, QUESTIONS[:1], memory)[0].all()[-1].kind == FAILED
    monkeypatch.undo()
    assert ask(engine, QUESTIONS[:1], memory)[0].done().tokens > 0
    assert engine.ready


def test_the_guilty_answer_of_a_failed_step_fails_alone(engine, shared_model, memory, monkeypatch):
    step, guilty = engine._batch.step, []

    def broken(tokens):
        if any(answer.request.question == QUESTIONS[1] and len(answer.ids) == 2 for answer in writing()):
            raise RuntimeError("no memory left")
        return step(tokens)

    def writing():
        return [answer for answer in engine._answers if len(engine._batch) == len(engine._answers)] or guilty

    def alone(answer):
        guilty[:] = [answer]
        return again(answer)

    again = engine._read_again
    monkeypatch.setattr(engine._batch, "step", broken)
    monkeypatch.setattr(engine, "_read_again", alone)
    asked = ask(engine, QUESTIONS, memory)
    assert asked[1].all()[-1].kind == FAILED
    for one in (asked[0], asked[2]):
        assert one.done().answer == shared_model.generate(
            one.request.question, memory, retrieval_top_k=2, max_new_tokens=5
        )
    assert engine.ready


def test_settings_that_leave_no_token_fail_their_own_answer(engine, shared_model, memory):
    cold = Asked(QUESTIONS[0], memory, 2, Options(max_new_tokens=5, temperature=1e-40))
    plain = Asked(QUESTIONS[1], memory, 2, FIVE)
    for one in (cold, plain):
        engine.submit(one.request)
    last = cold.all()[-1]
    assert last.kind == FAILED and "raise the temperature" in str(last.value)
    assert plain.done().answer == shared_model.generate(
        QUESTIONS[1], memory, retrieval_top_k=2, max_new_tokens=5
    )


def test_memories_and_searches_never_mix(shared_model, memory):
    other = shared_model.build_memory([{"text": DOCUMENTS[4], "id": "rhine"}], show_progress=False)
    engine = Engine(shared_model, max_batch=4, gather_seconds=0.2)
    asked = [Asked(QUESTIONS[0], each, 1) for each in (memory, other, memory)]
    asked[2].request.search = {"where": {"id": "3"}}
    for one in asked:
        engine.submit(one.request)
    engine.start()
    found = [one.all()[0].value.document_ids for one in asked]
    engine.close(timeout=30)
    assert found == [shared_model.retrieve(QUESTIONS[0], memory, 1).document_ids, ["rhine"], ["3"]]


def test_a_question_that_no_passage_is_near_to_is_not_answered(engine, memory, monkeypatch):
    monkeypatch.setattr(engine.model.config, "retrieval_min_score", 0.9999)
    far, *_ = ask(engine, QUESTIONS[:1], memory)
    events = far.all()
    assert [event.kind for event in events] == [FOUND, PIECE, DONE] and events[-1].value.answer == NOT_FOUND
    monkeypatch.setattr(engine.model.config, "retrieval_min_score", -1.0)
    assert ask(engine, QUESTIONS[:1], memory)[0].done().answer != NOT_FOUND


def test_an_engine_whose_every_step_fails_is_not_ready(engine, memory, monkeypatch):
    def broken(tokens):
        raise RuntimeError("no device")

    monkeypatch.setattr(engine._batch, "step", broken)
    for _ in range(3):
        assert ask(engine, QUESTIONS[:1], memory)[0].all()[-1].kind == FAILED
    assert not engine.ready
    monkeypatch.undo()
    assert ask(engine, QUESTIONS[:1], memory)[0].done().tokens > 0 and engine.ready


def test_the_queue_is_bounded(shared_model, memory):
    engine = Engine(shared_model, max_batch=1, max_queue=2)  # not started: nothing leaves the queue
    ask(engine, QUESTIONS[:2], memory)
    with pytest.raises(QueueFullError, match="2 questions"):
        ask(engine, QUESTIONS[2:], memory)


def test_a_cancelled_question_frees_its_place(shared_model, memory):
    engine = Engine(shared_model, max_batch=1, max_queue=2)
    waiting = ask(engine, QUESTIONS[:2], memory)
    waiting[0].request.cancel()
    ask(engine, QUESTIONS[2:], memory)
    assert engine.waiting == 2


def test_a_cancelled_answer_leaves_the_batch_and_is_told_no_more(engine, shared_model, memory):
    long = Options(max_new_tokens=400, min_new_tokens=400)
    gone, stays = ask(engine, QUESTIONS[:2], memory, options=long)
    started = threading.Event()
    while gone.events.get(timeout=60).kind != PIECE:
        pass
    gone.request.cancel()
    started.set()
    assert stays.done().tokens == 400
    assert engine.running <= 1 and gone.events.qsize() < 399


def test_closing_drains_or_drops(shared_model, memory):
    engine = Engine(shared_model, max_batch=2)
    asked = ask(engine, QUESTIONS, memory)
    engine.start()
    assert engine.close(timeout=60)
    assert all(one.done().tokens for one in asked)
    with pytest.raises(ClosingError):
        ask(engine, QUESTIONS[:1], memory)
    dropped = Engine(shared_model)
    asked = ask(dropped, QUESTIONS, memory)
    assert dropped.close(drain=False)
    assert [one.all()[-1].kind for one in asked] == [FAILED] * 3


def test_numbers_are_checked(shared_model):
    with pytest.raises(ValueError, match="`max_batch` must be at least 1, got 0"):
        Engine(shared_model, max_batch=0)
