"""Text in, text out: building, retrieving, answering, paraphrasing; threads, streaming, hostile texts."""

import math
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from clara.adapters_clara import wearing, worn_adapters
from clara.hub.space.visit import logit_lens
from clara.memory_clara import CorpusMemory
from clara.modeling_clara import ClaraForRetrievalGeneration
from clara.prompts_clara import NOT_FOUND, SLOTS, TEXT, plain_ids
from clara.retrieval_clara import cosine_scores
from conftest import DOCUMENTS, QUESTIONS, make_model, save_base, slots_of
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.streamers import BaseStreamer

M, H = 4, 32
HOSTILE = [
    "<MEM> <MEM0>",
    "<|im_end|>\n<|im_start|>",
    "nul \x00",
    "\U0001f600",
    "lone \ud83d",
    f"{SLOTS}{TEXT}",
]
FULL = {"max_new_tokens": 4, "min_new_tokens": 4, "return_dict_in_generate": True, "output_logits": True}
LONG = "The Forth Bridge is a railway bridge in Scotland. " * 12


@pytest.fixture(scope="module")
def memory(shared_model):
    return shared_model.build_memory(DOCUMENTS, show_progress=False)


def logits(out):
    """(B, 4, V) scores of the four generated tokens."""
    return torch.stack(out.generation.logits, dim=1)


def whole(memory):
    """(N, M, H): all memories, which are equally long here."""
    return memory.values.view(-1, M, H)


def close(first, second):
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def captured_memories(model, monkeypatch):
    """Collects what is put into the slots."""
    given, fill = [], model.fill_slots

    def spy(input_ids, memory):
        given.append(memory.clone())
        return fill(input_ids, memory)

    monkeypatch.setattr(model, "fill_slots", spy)
    return given


# retrieve


@torch.no_grad()
def test_the_nearest_by_cosine_come_first(shared_model, memory):
    hits = shared_model.retrieve(QUESTIONS, memory, 4)
    query = shared_model.reason(**shared_model.processor.encode_questions(QUESTIONS))
    scores, indices = cosine_scores(query.values.mean(-2), whole(memory).mean(-2)).topk(4)
    assert hits.indices == indices.tolist()
    close(hits.scores, scores)
    assert hits.document_ids == [[str(index) for index in row] for row in hits.indices]


def test_one_question_gives_flat_lists(shared_model, memory):
    one = shared_model.retrieve(QUESTIONS[0], memory, 2)
    listed = shared_model.retrieve(QUESTIONS[:1], memory, 2)
    assert one.document_ids == listed.document_ids[0] and one.indices == listed.indices[0]
    assert one.scores.shape == (2,) and listed.scores.shape == (1, 2)


def test_the_default_k_is_the_configurations_or_all(shared_model, memory):
    few = shared_model.build_memory(DOCUMENTS[:3], show_progress=False)
    assert len(shared_model.retrieve(QUESTIONS[0], memory).indices) == 5
    assert len(shared_model.retrieve(QUESTIONS[0], few).indices) == 3


@pytest.mark.parametrize("k", [0, -1, 7])
def test_an_explicit_k_must_fit(shared_model, memory, k):
    for call in (shared_model.retrieve, shared_model.generate):
        with pytest.raises(ValueError, match=f"`retrieval_top_k` must be .*6.*got {k}"):
            call(QUESTIONS[0], memory, retrieval_top_k=k)


@pytest.mark.parametrize("call", ["retrieve", "generate"])
def test_bad_questions(shared_model, memory, call):
    call = getattr(shared_model, call)
    for questions, error, told in (
        ("", ValueError, r"`questions\[0\]` is empty"),
        ([], ValueError, "`questions` is empty"),
        (["fine", 3], TypeError, r"`questions\[1\]` must be a string, got int"),
        ("why " * 300, ValueError, r"`questions\[0\]` has \d+ tokens, the limit is 256"),
    ):
        with pytest.raises(error, match=told):
            call(questions, memory)


def test_a_memory_of_another_model_is_refused(shared_model, memory, base, tmp_path):
    memory.save_pretrained(tmp_path / "memory")
    assert len(shared_model.load_memory(tmp_path / "memory")) == 6
    others = [make_model(base, pooling="mean"), make_model(save_base(tmp_path / "base", seed=1))]
    for other in others:
        for call in (other.retrieve, other.generate):
            with pytest.raises(ValueError, match="`memory` was made by another compressor or base"):
                call(QUESTIONS[0], memory)
        with pytest.raises(ValueError, match="another compressor|other"):
            other.load_memory(tmp_path / "memory")


@pytest.mark.parametrize("wrong", [None, "text", ["texts"], torch.zeros(2, M, H)])
def test_retrieval_needs_a_corpus_memory(shared_model, wrong):
    with pytest.raises(TypeError, match="`memory` must be a corpus memory of `build_memory`, got "):
        shared_model.retrieve(QUESTIONS[0], wrong)


# generate


@torch.no_grad()
def test_answers_come_from_the_chosen_memories_by_the_generator(shared_model, memory):
    """The same by hand: prompt, slots, the base wearing the generator."""
    out = shared_model.generate(QUESTIONS[:1], memory, 2, **FULL)
    prompt = shared_model.processor.encode_prompts(QUESTIONS[:1], slots_of(QUESTIONS[:1], 2))
    chosen = torch.cat(memory.gather(out.indices[0]))
    embeds = shared_model.fill_slots(prompt["input_ids"], chosen)
    with wearing(shared_model.decoder, "generator"):
        by_hand = shared_model.decoder(inputs_embeds=embeds).logits[:, -1]
    close(out.generation.logits[0], by_hand)
    text = shared_model.processor.tokenizer.decode(out.sequences[0], skip_special_tokens=True)
    assert out.answers == [text.strip()]


def test_kinds_of_results(shared_model, memory):
    answer = shared_model.generate(QUESTIONS[0], memory, 3, max_new_tokens=4)
    answers = shared_model.generate(QUESTIONS, memory, 3, max_new_tokens=4)
    assert isinstance(answer, str) and [type(text) for text in answers] == [str] * 3
    assert answers[0] == answer == shared_model.generate(QUESTIONS[:1], memory, 3, max_new_tokens=4)[0]
    one = shared_model.generate(QUESTIONS[0], memory, 3, **FULL)
    many = shared_model.generate(QUESTIONS, memory, 3, **FULL)
    assert one.answers == answer and one.scores.shape == (3,) and len(one.document_ids) == 3
    assert many.answers[0] == answer and many.scores.shape == (3, 3) and len(many.document_ids) == 3
    assert many.sequences.shape == (3, 4) and many.indices[0] == one.indices
    hits = shared_model.retrieve(QUESTIONS, memory, 3)
    assert many.document_ids == hits.document_ids
    close(many.scores, hits.scores)
    assert not one.sequences.requires_grad and not one.scores.requires_grad


def test_a_batch_answers_as_its_questions_alone(shared_model, memory):
    questions = [*QUESTIONS, "Why?"]
    together = logits(shared_model.generate(questions, memory, 2, **FULL))
    for row, question in enumerate(questions):
        close(together[row], logits(shared_model.generate(question, memory, 2, **FULL))[0])


def test_documents_and_memories_matter(shared_model, memory):
    first, second = (shared_model.generate(QUESTIONS[0], memory, k, **FULL) for k in (1, 2))
    assert (logits(first) - logits(second)).abs().max() > 1e-3


def test_the_same_call_twice_gives_the_same(shared_model, memory):
    first, second = (shared_model.generate(QUESTIONS, memory, **FULL) for _ in range(2))
    assert torch.equal(logits(first), logits(second)) and first.answers == second.answers


def test_compressing_tells_of_every_batch(shared_model):
    told = []
    shared_model.compress_passages(shared_model.split_passages(DOCUMENTS[:5]), 2, tick=told.append)
    assert told == [2, 2, 1]


def test_raw_texts_are_compressed_on_the_way(shared_model, memory):
    expected = shared_model.generate(QUESTIONS, memory, 2, **FULL)
    for texts in (DOCUMENTS, tuple(DOCUMENTS), [{"text": text} for text in DOCUMENTS]):
        out = shared_model.generate(QUESTIONS, texts, 2, **FULL)
        assert out.document_ids == expected.document_ids
        close(logits(out), logits(expected))


def test_one_document_is_a_corpus_of_one(shared_model):
    for document in (DOCUMENTS[2], {"text": DOCUMENTS[2]}):
        out = shared_model.generate(QUESTIONS[1], document, **FULL)
        assert out.document_ids == ["0"] and out.scores.shape == (1,)


def test_a_list_of_texts_for_each_question(shared_model):
    pools = [DOCUMENTS[:3], [DOCUMENTS[2], {"text": DOCUMENTS[3], "id": "basalt"}], DOCUMENTS]
    out = shared_model.generate(QUESTIONS, pools, **FULL)
    assert [len(row) for row in out.document_ids] == [3, 2, 5]
    assert set(out.document_ids[1]) == {"0", "basalt"}
    assert out.scores.shape == (3, 5)
    assert out.scores[0, 3:].tolist() == [float("-inf")] * 2 and out.scores[1, 2:].isinf().all()
    for row, (question, pool) in enumerate(zip(QUESTIONS, pools, strict=True)):
        alone = shared_model.generate(question, pool, **FULL)
        assert alone.document_ids == out.document_ids[row]
        close(logits(alone)[0], logits(out)[row])
    nested = shared_model.generate(QUESTIONS[0], [DOCUMENTS[:2]], **FULL)
    assert len(nested.document_ids) == 2


def test_bad_pools(shared_model):
    with pytest.raises(ValueError, match="`memory` has 2 lists of texts for 3 questions"):
        shared_model.generate(QUESTIONS, [DOCUMENTS, DOCUMENTS])
    with pytest.raises(ValueError, match="`documents` is empty"):
        shared_model.generate(QUESTIONS[:2], [DOCUMENTS, []])
    with pytest.raises(ValueError, match="`documents` is empty"):
        shared_model.generate(QUESTIONS[0], [])
    with pytest.raises(ValueError, match="`retrieval_top_k` must be .*2.*got 3"):
        shared_model.generate(QUESTIONS[:2], [DOCUMENTS, DOCUMENTS[:2]], retrieval_top_k=3)


def test_passages_of_one_document_are_given_in_their_order(shared_model, monkeypatch):
    built = shared_model.build_memory([{"text": LONG, "id": "x"}, *DOCUMENTS], show_progress=False)
    given = captured_memories(shared_model, monkeypatch)
    for question in QUESTIONS:
        out = shared_model.generate(question, built, len(built), **FULL)
        parts = [index for index in out.indices if built.parents[index] == "x"]
        assert out.scores.tolist() == sorted(out.scores.tolist(), reverse=True)
        order = iter(sorted(parts))
        expected = [next(order) if index in parts else index for index in out.indices]
        assert torch.equal(given[-1].view(-1, M, H), torch.stack(built.gather(expected)))


def test_memories_may_lie_in_the_order_of_the_pool(base, memory, monkeypatch):
    model = make_model(base, memory_order="document")
    given = captured_memories(model, monkeypatch)
    out = model.generate(QUESTIONS[0], memory, 4, **FULL)
    assert out.indices != sorted(out.indices)
    assert torch.equal(given[0].view(-1, M, H), torch.stack(memory.gather(sorted(out.indices))))


def test_answers_may_keep_their_white_space(base, memory):
    kept, stripped = (make_model(base, strip_answers=strip) for strip in (False, True))
    out = kept.generate(QUESTIONS[0], memory, max_new_tokens=20, return_dict_in_generate=True)
    assert out.answers == kept.processor.tokenizer.decode(out.sequences[0], skip_special_tokens=True)
    assert stripped.generate(QUESTIONS[0], memory, max_new_tokens=20) == out.answers.strip()


def test_ordinary_generation_arguments_pass_through(shared_model, memory):
    beams = shared_model.generate(QUESTIONS, memory, num_beams=2, **FULL)
    assert beams.sequences.shape == (3, 4) and hasattr(beams.generation, "beam_indices")
    torch.manual_seed(0)
    several = shared_model.generate(
        QUESTIONS[:2], memory, do_sample=True, num_return_sequences=3, temperature=3.0, max_new_tokens=4
    )
    assert [len(row) for row in several] == [3, 3] and len(set(several[0])) > 1
    single = shared_model.generate(
        QUESTIONS[0], memory, num_beams=3, num_return_sequences=2, max_new_tokens=2
    )
    assert len(single) == 2 and all(isinstance(text, str) for text in single)
    settings = GenerationConfig(max_new_tokens=1, min_new_tokens=1, eos_token_id=2, pad_token_id=0)
    out = shared_model.generate(
        QUESTIONS[0], memory, generation_config=settings, return_dict_in_generate=True
    )
    assert out.sequences.shape == (1, 1)


@pytest.mark.parametrize("unknown", ["retrieval_topk", "k", "documents"])
def test_unknown_arguments_raise(shared_model, memory, unknown):
    with pytest.raises((ValueError, TypeError), match=unknown):
        shared_model.generate(QUESTIONS[0], memory, **{unknown: 3})
    with pytest.raises((ValueError, TypeError), match=unknown):
        shared_model.paraphrase(DOCUMENTS[0], **{unknown: 3})


@pytest.mark.parametrize("arguments", [(QUESTIONS[0],), (QUESTIONS,), (None, None, 3)])
def test_without_a_memory_it_says_so(shared_model, arguments):
    with pytest.raises(ValueError, match="`memory` is missing"):
        shared_model.generate(*arguments)


def test_a_prompt_above_the_limit_raises(base):
    model = make_model(base, prompt_max_length=150)
    built = model.build_memory(DOCUMENTS, show_progress=False)
    with pytest.raises(ValueError, match=r"`prompts\[0\]` has \d+ tokens, the limit is 150"):
        model.generate("Why " * 40, built)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_question_changes_nothing_for_the_others(shared_model, memory, text):
    alone = shared_model.generate(QUESTIONS[0], memory, 2, **FULL)
    among = shared_model.generate([text, QUESTIONS[0]], memory, 2, **FULL)
    close(logits(among)[1], logits(alone)[0])
    assert among.document_ids[1] == alone.document_ids


def test_memories_of_other_formats_and_lengths(shared_model, memory):
    for dtype in (torch.bfloat16, "int8", "int4"):
        kept = shared_model.build_memory(DOCUMENTS, dtype=dtype, show_progress=False)
        assert len(shared_model.generate(QUESTIONS, kept, 2, **FULL).answers) == 3
    short = CorpusMemory(
        whole(memory)[:, :2].flatten(0, 1),
        DOCUMENTS,
        vectors=memory.vectors,
        fingerprint=memory.fingerprint,
        offsets=torch.arange(7) * 2,
    )
    out = shared_model.generate(QUESTIONS[0], short, 2, **FULL)
    close(out.scores, shared_model.retrieve(QUESTIONS[0], memory, 2).scores)


# The base's own generate


@torch.no_grad()
def test_without_memory_it_is_the_bases_own_generate(shared_model, base):
    plain = AutoModelForCausalLM.from_pretrained(base)
    batch = shared_model.processor.encode_documents(["Titan", DOCUMENTS[0]])
    settings = {"max_new_tokens": 5, "do_sample": False}
    expected = plain.generate(**batch, **settings)
    assert torch.equal(shared_model.generate(**batch, **settings), expected)
    ids = batch["input_ids"][1:]
    assert torch.equal(shared_model.generate(ids, **settings), plain.generate(ids, **settings))
    assert torch.equal(shared_model.generate(inputs=ids, **settings), plain.generate(ids, **settings))


# State


def test_calls_leave_the_model_as_it_was(model):
    model.train()
    model.decoder.eval()
    built = model.build_memory(DOCUMENTS, show_progress=False)
    before = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    settings = [model.config.to_dict(), model.generation_config.to_dict()]
    flags = [(module.training) for module in model.modules()], [p.requires_grad for p in model.parameters()]
    model.retrieve(QUESTIONS, built, 1)
    model.generate(QUESTIONS, built, 1, max_new_tokens=2)
    model.paraphrase(DOCUMENTS[0], max_new_tokens=2)
    with pytest.raises(ValueError):
        model.generate(QUESTIONS, built, 99)
    after = {key: value for key, value in vars(model).items() if not key.startswith("_")}
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)
    assert [model.config.to_dict(), model.generation_config.to_dict()] == settings
    assert flags == ([(m.training) for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert worn_adapters(model.decoder) == []
    assert len(model.retrieve(QUESTIONS[0], built).indices) == 5


def test_a_training_model_answers_without_dropout(base, memory):
    model = make_model(base).train()
    built = model.build_memory(DOCUMENTS, show_progress=False)
    close(built.values, memory.values)
    expected = make_model(base).generate(QUESTIONS, memory, 2, **FULL)
    close(logits(model.generate(QUESTIONS, built, 2, **FULL)), logits(expected))
    assert all(module.training for module in model.modules())


# Threads and streaming


@pytest.fixture
def quick_switches():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def test_threads_get_the_answers_they_would_get_alone(shared_model, memory, quick_switches):
    ids = shared_model.processor.encode_documents(DOCUMENTS[:1])["input_ids"]
    jobs = [
        lambda: logits(shared_model.generate(QUESTIONS[0], memory, 2, **FULL)),
        lambda: logits(shared_model.generate(QUESTIONS[1], DOCUMENTS[:4], 3, **FULL)),
        lambda: shared_model.retrieve(QUESTIONS, memory).scores,
        lambda: shared_model.build_memory(DOCUMENTS, show_progress=False).values,
        lambda: shared_model.generate(ids, max_new_tokens=4),
        lambda: shared_model(ids).logits.detach(),
    ]
    alone = [job() for job in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        rounds = [[pool.submit(job) for job in jobs] for _ in range(4)]
        for futures in rounds:
            for future, expected in zip(futures, alone, strict=True):
                close(future.result(), expected)
    assert worn_adapters(shared_model.decoder) == []


def test_threads_on_a_training_model_meet_no_dropout(model, memory, quick_switches):
    """One thread must not end another's eval mode."""
    model.train()
    expected = model.retrieve(QUESTIONS, memory).scores

    def job(turn):
        if turn % 2:
            return model.retrieve(QUESTIONS, memory).scores
        return model.build_memory(DOCUMENTS, show_progress=False).values

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(job, range(40)))
    for turn, result in enumerate(found):
        close(result, expected if turn % 2 else memory.values)
    assert all(module.training for module in model.modules())


class Listener(BaseStreamer):
    """Keeps the tokens and whether another thread could have taken the model's lock meanwhile."""

    def __init__(self, lock):
        self.lock, self.tokens, self.free, self.ended = lock, [], [], False

    def put(self, value):
        self.tokens.extend(value.flatten().tolist())

        def attempt():
            taken = self.lock.acquire(blocking=False)
            self.free.append(taken)
            if taken:
                self.lock.release()

        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()

    def end(self):
        self.ended = True


def test_a_streamer_gets_the_tokens_and_the_lock_is_held(shared_model, memory):
    listener = Listener(shared_model.lock)
    out = shared_model.generate(QUESTIONS[0], memory, 2, streamer=listener, **FULL)
    assert listener.ended and listener.tokens == out.sequences[0].tolist()
    assert len(listener.free) >= 4 and not any(listener.free)
    assert out.answers == shared_model.generate(QUESTIONS[0], memory, 2, **FULL).answers


def test_an_error_while_streaming_takes_the_adapter_off(shared_model, memory):
    class Failing(Listener):
        def put(self, value):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_model.generate(QUESTIONS[0], memory, streamer=Failing(shared_model.lock))
    assert worn_adapters(shared_model.decoder) == []
    assert ThreadPoolExecutor(1).submit(shared_model.retrieve, QUESTIONS[0], memory).result(60)


# paraphrase


def test_paraphrase_one_and_several(shared_model):
    texts = shared_model.paraphrase(DOCUMENTS[:2], max_new_tokens=4)
    assert len(texts) == 2
    assert shared_model.paraphrase(DOCUMENTS[0], max_new_tokens=4) == texts[0]
    assert shared_model.paraphrase({"text": DOCUMENTS[0]}, max_new_tokens=4) == texts[0]
    assert shared_model.paraphrase(DOCUMENTS[:2], max_new_tokens=4) == texts


def test_paraphrase_reads_every_passage_of_a_long_document(shared_model, monkeypatch):
    given = captured_memories(shared_model, monkeypatch)
    texts = shared_model.paraphrase([LONG, DOCUMENTS[0]], max_new_tokens=2)
    built = shared_model.build_memory([LONG, DOCUMENTS[0]], show_progress=False)
    assert len(texts) == 2 and torch.equal(given[0], built.values)


def test_answers_do_not_depend_on_the_copy(memory, checkpoint, shared_model):
    again = ClaraForRetrievalGeneration.from_pretrained(checkpoint)
    expected = shared_model.generate(QUESTIONS, memory, **FULL)
    out = again.generate(QUESTIONS, memory, **FULL)
    assert out.answers == expected.answers and torch.equal(logits(out), logits(expected))


def test_filters_reach_the_search(shared_model):
    documents = [{"text": text, "number": number} for number, text in enumerate(DOCUMENTS)]
    memory = shared_model.build_memory(documents, show_progress=False)
    hits = shared_model.retrieve(QUESTIONS, memory, 5, where={"number": {">=": 4}})
    assert [sorted(row) for row in hits.indices] == [[4, 5]] * 3
    out = shared_model.generate(
        QUESTIONS[0], memory, where={"number": [1]}, max_new_tokens=2, return_dict_in_generate=True
    )
    assert out.document_ids == ["1"] and out.scores.shape == (1,)
    with pytest.raises(ValueError, match="lets no passage through"):
        shared_model.generate(QUESTIONS, memory, where={"number": 7})
    assert shared_model.retrieve(QUESTIONS[0], memory, where={"number": 7}).indices == []
    with pytest.raises(ValueError, match="`memory` is missing"):
        shared_model.generate(where={"number": 7})


def test_a_folder_is_opened_and_another_path_refused(shared_model, memory, tmp_path):
    memory.save_pretrained(tmp_path / "kept")
    wanted = shared_model.generate(QUESTIONS, memory, 2, max_new_tokens=4)
    assert shared_model.generate(QUESTIONS, str(tmp_path / "kept"), 2, max_new_tokens=4) == wanted
    assert shared_model.retrieve(QUESTIONS[0], tmp_path / "kept", 2).document_ids
    with pytest.raises(ValueError, match="is a path, not a text"):
        shared_model.generate(QUESTIONS[0], "./notes/none.jsonl")
    with pytest.raises(ValueError, match="is a path, not a text"):
        shared_model.build_memory(["corpus.jsonl"])


def test_the_logit_lens_reads_each_memory_vector(shared_model):
    found = logit_lens(shared_model, QUESTIONS[0], top=3)
    assert len(found) == M and all(len(row) == 3 for row in found)
    assert all(row[0][1] >= row[1][1] >= row[2][1] > 0 for row in found)


def test_a_memory_says_again_what_it_holds(shared_model, memory):
    said = shared_model.paraphrase_memory(memory, 2, max_new_tokens=6)
    assert said == shared_model.paraphrase(DOCUMENTS[2], max_new_tokens=6)
    with pytest.raises(IndexError, match="from 0 to 5"):
        shared_model.paraphrase_memory(memory, 6)


def test_memories_of_mean_states_are_as_long_as_their_texts_ask(base):
    model = make_model(base, pooling="mean", compression_rate=4)
    memory = model.build_memory(["Ada.", DOCUMENTS[0]], show_progress=False)
    tokens = [len(model.processor.tokenizer(text)["input_ids"]) for text in memory.texts]
    assert [len(part) for part in memory.gather([0, 1])] == [-(-count // 4) for count in tokens]
    torch.testing.assert_close(memory.vectors[1], memory.gather([1])[0].mean(0), atol=1e-6, rtol=0)
    assert len(model.generate(QUESTIONS, memory, max_new_tokens=2)) == 3


def test_reading_each_memory_alone_keeps_the_likeliest_answer(shared_model, memory, monkeypatch):
    options = {"max_new_tokens": 5, "return_dict_in_generate": True}
    found = shared_model.generate(QUESTIONS, memory, 3, reading="each", **options)
    assert found.scores.shape == (3, 3)
    for question, answer, indices, scores in zip(
        QUESTIONS, found.answers, found.indices, found.scores, strict=True
    ):
        alone = []
        for index, score in zip(indices, scores.tolist(), strict=True):
            embeds, mask = shared_model.embed_answers([question], [memory.gather([index])])
            out = shared_model._generate_from(embeds, mask, max_new_tokens=5, output_logits=True)
            tokens = out.sequences[0].tolist()
            logs = [row[0].float().log_softmax(-1)[t] for row, t in zip(out.logits, tokens, strict=True)]
            text = shared_model._decode(out.sequences, 1)[0]
            alone.append((float(sum(logs) / len(logs)) + score / 0.1, text))
        assert answer == max(alone)[1]
        with monkeypatch.context() as patch:  # an answer that says that nothing was found comes last
            patch.setattr("clara.prompts_clara.NOT_FOUND", answer)
            left = max([pair for pair in alone if pair[1] != answer], default=(0, answer))[1]
            assert shared_model.generate(question, memory, 3, reading="each", max_new_tokens=5) == left
    one = shared_model.generate(QUESTIONS[0], memory, 1, reading="each", max_new_tokens=5)
    assert one == shared_model.generate(QUESTIONS[0], memory, 1, max_new_tokens=5)


def test_a_question_to_which_no_memory_holds_an_answer_is_refused(shared_model, memory, monkeypatch):
    refusal = plain_ids(shared_model.processor.tokenizer, [NOT_FOUND])[0][0]
    asked = {"questions": QUESTIONS, "memory": memory, "retrieval_top_k": 3, "max_new_tokens": 5}
    found = shared_model.retrieve(QUESTIONS, memory, 3)
    held = []
    for question, indices, scores in zip(QUESTIONS, found.indices, found.scores.tolist(), strict=True):
        memories = [[part] for part in memory.gather(indices)]
        out = shared_model._generate_from(
            *shared_model.embed_answers([question] * 3, memories), max_new_tokens=1, output_logits=True
        )
        shares = out.logits[0].float().softmax(-1)[:, refusal].tolist()
        held.append(max(math.log((1 - p) / p) + score / 0.1 for p, score in zip(shares, scores, strict=True)))
    plain = shared_model.generate(**asked, reading="each")
    between = sum(sorted(held)[:2]) / 2
    monkeypatch.setattr(shared_model.config, "reading_min_score", between)
    answers = shared_model.generate(**asked, reading="each")
    assert answers == [NOT_FOUND if s < between else a for a, s in zip(plain, held, strict=True)]
    assert answers.count(NOT_FOUND) == 1
    assert shared_model.generate(**asked) != answers  # read together, the generator alone decides
    first = shared_model.processor.tokenizer(plain[0])["input_ids"][0]
    monkeypatch.setattr("clara.generation_clara.plain_ids", lambda tokenizer, texts: [[first]])
    monkeypatch.setattr(shared_model.config, "reading_min_score", -1e9)
    assert not shared_model.generate(**asked, reading="each")[0].startswith(plain[0])  # a refusal's token


def test_memories_read_together_give_one_more_answer(shared_model, memory, monkeypatch):
    asked = {"questions": QUESTIONS, "memory": memory, "retrieval_top_k": 3, "max_new_tokens": 5}
    plain = {how: shared_model.generate(**asked, reading=how) for how in ("each", "together")}
    said = type(shared_model)._said
    assert plain["each"] != plain["together"]
    for joint, told in ((1e6, "together"), (-1e6, "each")):
        monkeypatch.setattr(shared_model.config, "reading_joint", joint)
        assert shared_model.generate(**asked, reading="each") == plain[told]
        assert shared_model.generate(**asked, reading="together") == plain["together"]
    read = []

    def counted(model, asked, *rest):
        read.append(len(asked))
        return said(model, asked, *rest)

    monkeypatch.setattr(type(shared_model), "_said", counted)
    shared_model.generate(**asked, reading="each")
    assert read == [9]  # that answer could not be told: it was not read


def test_the_configuration_says_how_memories_are_read(shared_model, memory, monkeypatch):
    asked = {"questions": QUESTIONS[0], "memory": memory, "retrieval_top_k": 3, "max_new_tokens": 5}
    answers = {how: shared_model.generate(**asked, reading=how) for how in ("together", "each")}
    beams = shared_model.generate(**asked, reading="together", num_beams=2)
    assert shared_model.generate(**asked) == answers["together"] != answers["each"]
    monkeypatch.setattr(shared_model.config, "reading", "each")
    assert shared_model.generate(**asked) == answers["each"]
    assert shared_model.generate(**asked, num_beams=2) == beams  # what "each" cannot do

    class Heard(BaseStreamer):
        ids, ended = [], False

        def put(self, value):
            self.ids.extend(value.flatten().tolist())

        def end(self):
            self.ended = True

    heard = Heard()
    assert shared_model.generate(**asked, streamer=heard) == answers["each"]
    assert heard.ended and shared_model._decode(torch.tensor([heard.ids]), 1) == [answers["each"]]


def test_what_reading_each_cannot_do_is_refused(shared_model, memory):
    with pytest.raises(ValueError, match="`reading` must be one of .*, got 'both'"):
        shared_model.generate(QUESTIONS[0], memory, reading="both")
    with pytest.raises(ValueError, match="leave `num_beams` out"):
        shared_model.generate(QUESTIONS[0], memory, reading="each", num_beams=2)


def test_a_question_that_no_passage_is_near_to_is_not_answered(shared_model, memory):
    options = {"max_new_tokens": 3, "return_dict_in_generate": True}
    plain = shared_model.generate(QUESTIONS, memory, 2, **options)
    best = plain.scores.amax(dim=1)
    between = float(best.sort().values[:2].mean())
    found = shared_model.generate(QUESTIONS, memory, 2, min_score=between, **options)
    expected = [NOT_FOUND if s < between else a for a, s in zip(plain.answers, best.tolist(), strict=True)]
    assert found.answers == expected and found.answers.count(NOT_FOUND) == 1
    assert found.document_ids == plain.document_ids
