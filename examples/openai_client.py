"""OpenAI's own client against `clara serve`: an answer with its sources, a stream, search vectors.

    clara build-memory notes/ --output my_memory
    clara serve --memory my_memory
    python examples/openai_client.py "Who found Titan?"

`CLARA_URL` names another address, `CLARA_API_KEY` the key of a server that has one.
"""

import os
import sys

from openai import OpenAI


def main(question: str) -> str:
    """Asks one question in every way; returns the answer."""
    client = OpenAI(
        base_url=os.environ.get("CLARA_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("CLARA_API_KEY", "none"),
    )
    memory = client.models.list().data[-1].id
    messages = [{"role": "user", "content": question}]

    # Fields of ours go through `extra_body`; `where` filters by metadata, `hybrid` lets words count too.
    ours = {"retrieval_top_k": 1, "hybrid": 0.5}
    whole = client.chat.completions.create(model=memory, messages=messages, max_tokens=32, extra_body=ours)
    print(whole.choices[0].message.content)
    for source in whole.clara["documents"]:
        start, end = source["span"]
        print(f"  {source['document_id']} ({source['score']:.2f}): {source['text'][start:end]}")

    for event in client.chat.completions.create(
        model=memory, messages=messages, max_tokens=32, extra_body=ours, stream=True
    ):
        if event.choices:
            print(event.choices[0].delta.content or "", end="", flush=True)
    print()

    vector = client.embeddings.create(model=memory, input=question, extra_body={"input_type": "query"})
    print(f"search vector of {len(vector.data[0].embedding)} numbers")
    return whole.choices[0].message.content


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "Who found Titan?")
