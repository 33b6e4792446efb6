"""A page to try CLaRa in the browser, as a Gradio Space: documents in, compress, ask, look inside.

`clara app` opens it on this machine; `clara publish --space` makes a Space of it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...data.sources import is_supported, likely_span
from ...prompts_clara import NOT_FOUND
from . import page as html
from . import visit

VISIT_SECONDS = 3600
ANSWER_TOKENS, PARAPHRASE_TOKENS = 96, 160
UNTRAINED = (
    "The adapters of this model are untrained: its answers mean nothing yet. Sizes, the search and the "
    "way of the data are real."
)
SMALL = (
    "This is a small model of {millions:,.0f} million parameters: it is often wrong. Check what it says "
    "against the passages."
)
SMALL_PARAMETERS = 1e9
UNSUPPORTED = (
    "Not found: the words of this answer stand in none of the passages, so the documents probably do not "
    "say it."
)
NO_ANSWER = "The answer appears here, beside the passages it was read from."
NO_PASSAGES = "The chosen passages appear here, with the cosine of each."
FIRST_COMPRESS = "Nothing is in memory yet: compress some documents first (step 1)."


class Page:
    """The page's actions on one model; what belongs to a visit (its memory) comes in and goes out.

    The memory of the sample corpus is kept in `cache`, by default the user's. With `made`, its folder as it
    came with a Space, every visit begins with it.
    """

    def __init__(
        self, model: Any, trained: bool, cache: str | None = None, made: str | Path | None = None
    ) -> None:
        self.model, self.trained, self.cache, self.made = model, trained, cache, made

    def warning(self) -> str:
        """What a visitor should know of the model; empty if there is nothing."""
        if not self.trained:
            return UNTRAINED
        parameters = sum(parameter.numel() for parameter in self.model.decoder.parameters())
        return SMALL.format(millions=parameters / 1e6) if parameters < SMALL_PARAMETERS else ""

    def compress(self, pasted: str, files: list[str] | None) -> Iterator[tuple]:
        """Compresses what was pasted and uploaded; uploads are deleted as soon as they are read."""
        files = files or []
        try:
            uploaded, skipped = visit.uploaded_documents(files)
            documents = visit.checked([*visit.pasted_documents(pasted or ""), *uploaded], skipped)
        except ValueError as error:
            yield self.told(html.notice(str(error), error=True))
            return
        finally:
            for file in files:
                Path(file).unlink(missing_ok=True)
        try:
            memory = None
            for done, total, memory in visit.compress_steps(self.model, documents):  # noqa: B007
                yield self.told(html.progress(done, total))
        except (ValueError, TypeError) as error:
            yield self.told(html.notice(str(error), error=True))
            return
        yield self.remembered(memory, skipped, chips=False)

    def take_sample(self) -> Iterator[tuple]:
        """The memory of the sample corpus, compressed before or now."""
        yield self.told(html.hint("Taking the sample corpus. Its first compression takes a minute."))
        yield self.remembered(visit.sample_memory(self.model, self.cache, self.made), (), chips=True)

    @staticmethod
    def told(status: str) -> tuple:
        """A status alone: memory, passages and chips stay, the file field is emptied."""
        return gr.skip(), status, gr.skip(), None, gr.skip()

    def remembered(self, memory: Any, skipped: Sequence[str], chips: bool) -> tuple:
        """Memory, status, passages to choose from, an emptied file field, and whether chips are shown."""
        tokens = visit.count_tokens(self.model, memory.texts)
        documents, vectors = len(set(memory.parents)), int(memory.offsets[-1])
        status = html.stored(documents, len(memory), tokens, vectors, skipped)
        names = [
            (f"{named(memory, row)}: {html.shorten(text, 60)}", row) for row, text in enumerate(memory.texts)
        ]
        return memory, status, gr.Dropdown(choices=names, value=0), None, gr.Row(visible=chips)

    def ask(self, question: str, k: int, memory: Any) -> Iterator[tuple[str, str]]:
        """The answer as it is written, and the passages it is read from."""
        problem = self.problem(question, memory)
        if problem:
            yield problem, html.empty(NO_PASSAGES)
            return
        k = min(int(k), len(memory))
        try:
            hits = self.model.retrieve(question, memory, retrieval_top_k=k)
            texts = [memory.texts[index] for index in hits.indices]

            def chosen(said: str) -> str:
                names = [named(memory, index) for index in hits.indices]
                spans = [likely_span(text, question, said) for text in texts]
                return html.passages(names, hits.scores.tolist(), texts, spans)

            vectors = sum(map(len, memory.gather(hits.indices)))
            bars = html.token_bars(visit.count_tokens(self.model, texts), vectors)
            text = ""
            yield html.answer("", True) + bars, chosen("")
            options = {"retrieval_top_k": k, "max_new_tokens": ANSWER_TOKENS}
            for text in visit.streamed(
                self.model, lambda out: self.model.generate(question, memory, streamer=out, **options)
            ):
                yield html.answer(text, True) + bars, gr.skip()
            least = self.model.config.retrieval_min_score
            text = text if least is None or hits.scores.max().item() >= least else NOT_FOUND
            unsure = "" if text == NOT_FOUND or is_supported(text, texts) else html.notice(UNSUPPORTED)
            yield unsure + html.answer(text) + bars, chosen(text)
        except (ValueError, TimeoutError) as error:
            yield html.notice(str(error), error=True), html.empty(NO_PASSAGES)

    def paraphrase(self, row: int | None, memory: Any) -> Iterator[str]:
        """What the memory of one passage alone still says."""
        if memory is None or row is None:
            yield html.notice(FIRST_COMPRESS)
            return
        text = ""
        yield html.answer("", True)
        for text in visit.streamed(
            self.model,
            lambda out: self.model.paraphrase_memory(
                memory, row, streamer=out, max_new_tokens=PARAPHRASE_TOKENS
            ),
        ):
            yield html.answer(text, True)
        yield html.answer(text) + html.passage(memory.texts[row])

    def show_lens(self, question: str) -> str:
        """The words that the question's memory decodes to."""
        problem = self.problem(question, memory="not needed")
        return problem or html.lens(visit.logit_lens(self.model, question))

    def problem(self, question: str, memory: Any) -> str:
        """Why a question cannot be asked now, as a notice; empty if it can."""
        if memory is None:
            return html.notice(FIRST_COMPRESS)
        if not question or not question.strip():
            return html.notice("Write a question first (step 2).")
        if len(question) > visit.MAX_QUESTION:
            return html.notice(
                f"The question has more than {visit.MAX_QUESTION} characters: shorten it.", error=True
            )
        return ""


def named(memory: Any, index: int) -> str:
    """The document of a passage by its name, and which part of it the passage is."""
    parent = memory.parents[index]
    return parent if memory.document_ids[index] == parent else f"{parent}, part {memory.orders[index] + 1}"


def build(page: Page) -> gr.Blocks:
    """The page's layout, with its actions tied to it."""
    config = page.model.config
    name = Path(config.base_model_name_or_path or "a language model").name
    cache = (600, VISIT_SECONDS)
    with gr.Blocks(title="Ask your documents", analytics_enabled=False, delete_cache=cache) as blocks:
        gr.HTML(html.head(name, config.compression_rate))
        if page.warning():
            gr.HTML(html.notice(page.warning()))
        memory = gr.State(None, time_to_live=VISIT_SECONDS)
        with gr.Column(elem_classes="clara-card"):
            status, sample, compress, given = documents_step()
        question, k, asking, written, chosen, chips, texts = question_step(config.retrieval_top_k)
        row, say, said, look, seen = inside_step()
        made = [memory, status, row, given[1], chips]
        options = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on([compress.click], page.compress, given, made, **options)
        begins = [blocks.load] if page.made else []
        gr.on([sample.click, *begins], page.take_sample, None, made, **options)
        gr.on([asking.click, question.submit], page.ask, [question, k, memory], [written, chosen], **options)
        for chip, text in texts:
            picked = chip.click(lambda text=text: text, None, question, **options)
            picked.then(page.ask, [question, k, memory], [written, chosen], **options)
        gr.on([say.click], page.paraphrase, [row, memory], said, **options)
        gr.on([look.click], page.show_lens, question, seen, **options)
    return blocks


def documents_step() -> tuple:
    """Step 1: text field, files, buttons, status."""
    gr.HTML(html.step(1, "Documents"))
    with gr.Row():
        files = gr.File(
            label="Drop files: PDF, Word, slides, Markdown, HTML, tables, text",
            file_count="multiple",
            file_types=list(visit.SUFFIXES),
            elem_id="files",
            scale=3,
        )
        pasted = gr.Textbox(
            label="Or paste the text of one document",
            lines=7,
            max_lines=14,
            max_length=visit.MAX_CHARACTERS,
            elem_id="paste",
            scale=2,
        )
    with gr.Row():
        compress = gr.Button("Compress", variant="primary", elem_id="compress", scale=0, min_width=180)
        sample = gr.Button("Use the sample corpus", elem_id="sample", scale=0, min_width=260)
    limits = f"Up to {visit.MAX_DOCUMENTS} documents, {visit.MAX_CHARACTERS:,} characters."
    status = gr.HTML(html.hint(f"{limits} Nothing outlives the visit."), elem_id="status")
    return status, sample, compress, [pasted, files]


def question_step(k: int) -> tuple:
    """Step 2: question, number of passages, answer and passages side by side."""
    with gr.Column(elem_classes="clara-card"):
        gr.HTML(html.step(2, "Question"))
        with gr.Row():
            question = gr.Textbox(
                label="Your question", lines=1, max_length=visit.MAX_QUESTION, elem_id="question", scale=4
            )
            chosen_k = gr.Slider(1, 10, value=k, step=1, label="Passages to read", elem_id="k", scale=2)
        with gr.Row():
            asking = gr.Button("Ask", variant="primary", elem_id="ask", scale=0, min_width=180)
        with gr.Row(visible=False, elem_id="chips", elem_classes="clara-chips") as chips:
            texts = [(gr.Button(text, size="sm"), text) for text in visit.sample_chips()]
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            written = gr.HTML(html.empty(NO_ANSWER), elem_id="answer")
        with gr.Column(scale=2, min_width=300):
            chosen = gr.HTML(html.empty(NO_PASSAGES), elem_id="passages")
    return question, chosen_k, asking, written, chosen, chips, texts


def inside_step() -> tuple:
    """Step 3: what a passage's memory says again, and what the question's memory decodes to."""
    with (
        gr.Accordion("Look inside the memories", open=False, elem_id="inside", elem_classes="clara-card"),
        gr.Row(),
    ):
        with gr.Column(min_width=300):
            row = gr.Dropdown(choices=[], label="Passage", elem_id="passage")
            say = gr.Button("Say this memory again in words", elem_id="say")
            said = gr.HTML(html.empty("What the memory alone still holds appears here."), elem_id="said")
        with gr.Column(min_width=300):
            gr.HTML(
                html.hint("The question of step 2, seen through the base's own output layer (logit lens).")
            )
            look = gr.Button("Show the question's words", elem_id="look")
            seen = gr.HTML(
                html.empty("The likeliest words of each memory token appear here."), elem_id="seen"
            )
    return row, say, said, look, seen


def launch(blocks: gr.Blocks, **options: Any) -> Any:
    """Serves the page: fonts of the system, bounded queue and uploads, nothing fetched from elsewhere."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"]
    )
    theme = theme.set(
        block_border_width="0px",
        block_shadow="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_background_fill="white",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        body_text_color_subdued="#526071",
        body_text_color_subdued_dark="#a9b6c6",
        block_info_text_color="#526071",
        block_info_text_color_dark="#a9b6c6",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#115e59",
        button_primary_text_color="white",
    )
    settings = {"css": html.CSS, "theme": theme, "max_file_size": "20mb", "footer_links": []}
    settings |= {"ssr_mode": False, **options}
    return blocks.queue(max_size=32, default_concurrency_limit=1).launch(**settings)
