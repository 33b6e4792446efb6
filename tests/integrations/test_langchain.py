"""LangChain's own classes around a tiny model: chains, batches, callbacks."""

import pytest
from conftest import DOCUMENTS, QUESTIONS

pytest.importorskip("langchain_core")
from clara.integrations.langchain import ClaraAnswerer, ClaraRetriever  # noqa: E402
from langchain_core.runnables import RunnableLambda, RunnablePassthrough  # noqa: E402


@pytest.fixture(scope="module")
def memory(shared_model):
    rows = [{"text": text, "place": number} for number, text in enumerate(DOCUMENTS)]
    return shared_model.build_memory(rows, show_progress=False)


def test_the_retriever_is_a_runnable(shared_model, memory):
    retriever = ClaraRetriever(model=shared_model, memory=memory, options={"retrieval_top_k": 2})
    documents = retriever.invoke(QUESTIONS[0])
    hits = shared_model.retrieve(QUESTIONS[0], memory, retrieval_top_k=2)
    assert [document.id for document in documents] == hits.document_ids
    assert documents[0].metadata["score"] == pytest.approx(hits.scores[0].item())
    assert documents[0].metadata["place"] == hits.indices[0]
    assert len(retriever.batch(QUESTIONS)) == len(QUESTIONS)
    assert len(retriever.invoke(QUESTIONS[0], retrieval_top_k=1)) == 1
    chain = retriever | RunnableLambda(lambda found: [document.page_content for document in found])
    assert chain.invoke(QUESTIONS[0]) == [document.page_content for document in documents]


async def told(answerer):
    return await answerer.ainvoke(QUESTIONS[0])


def test_the_answerer_answers_as_the_model(shared_model, memory):
    options = {"retrieval_top_k": 2, "max_new_tokens": 4}
    answerer = ClaraAnswerer(shared_model, memory, **options)
    expected = shared_model.generate(QUESTIONS, memory, **options)
    found = answerer.invoke(QUESTIONS[0])
    assert found["answer"] == expected[0] and len(found["context"]) == 2
    assert [row["answer"] for row in answerer.batch(QUESTIONS)] == expected
    assert [row["question"] for row in answerer.batch(QUESTIONS)] == QUESTIONS
    chain = {"found": answerer, "asked": RunnablePassthrough()} | RunnableLambda(
        lambda both: f"{both['asked']} {both['found']['answer']}"
    )
    assert chain.invoke(QUESTIONS[1]) == f"{QUESTIONS[1]} {expected[1]}"


def test_the_answerer_works_where_everything_is_awaited(shared_model, memory):
    import asyncio

    answerer = ClaraAnswerer(shared_model, memory, retrieval_top_k=1, max_new_tokens=2)
    assert asyncio.run(told(answerer)) == answerer.invoke(QUESTIONS[0])
    assert answerer.batch([]) == []


def test_the_server_takes_what_a_chat_model_of_langchain_sends(shared_model):
    openai = pytest.importorskip("langchain_openai")
    from serving_helpers import make_app, serving

    with serving(make_app(shared_model)) as url:
        chat = openai.ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="sights", max_tokens=2)
        assert chat.bind_tools([]).invoke(QUESTIONS[0]).content == chat.invoke(QUESTIONS[0]).content
