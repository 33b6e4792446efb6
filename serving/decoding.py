"""One answer as it is written: choosing its next token, its text so far, when it ends.

Letters of the shapes: B questions, V vocabulary.
"""

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinLengthLogitsProcessor,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from ..prompts_clara import answer_odds
from .requests import DONE, PIECE, EngineRequest, Finished

UNFINISHED = "\ufffd"


def end_tokens(config: GenerationConfig) -> list[int]:
    """The ids that end an answer."""
    ends = config.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def make_processors(
    request: EngineRequest, config: GenerationConfig, device: torch.device
) -> LogitsProcessorList:
    """The processors of one answer, transformers' own; none if the likeliest token is simply taken."""
    options, ends = request.options, end_tokens(config)
    processors = LogitsProcessorList()
    if config.repetition_penalty not in (None, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    if options.min_new_tokens and ends:
        processors.append(MinLengthLogitsProcessor(options.min_new_tokens, ends, device=str(device)))
    if options.temperature > 0 and options.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(options.temperature))
    if options.temperature > 0 and options.top_p < 1.0:
        processors.append(TopPLogitsWarper(options.top_p))
    return processors


class Answer:
    """The answer to one request.

    Args:
        request: What was asked.
        config: The model's generation settings: end tokens and repetition penalty.
        tokenizer: Turns ids into text.
        strip: Whether white space around the answer goes (`config.strip_answers`).
        refusal: The first token of the text that nothing was found, which this answer is not to begin with.
        device: Where the logits lie.
    """

    def __init__(
        self,
        request: EngineRequest,
        config: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
        strip: bool,
        device: torch.device,
        refusal: int | None = None,
    ) -> None:
        self.request = request
        self.ids: list[int] = []
        self.finished = False
        self._tokenizer, self._strip = tokenizer, strip
        self._ends = set(end_tokens(config))
        self.processors = make_processors(request, config, device)
        self.plain = not self.processors and request.options.temperature == 0 and request.reading != "each"
        self._log_prob, self._odds, self._refusal = 0.0, 0.0, refusal
        self.generator = torch.Generator(device)
        if request.options.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(request.options.seed)
        self._sent = ""
        self._hold = max((len(stop) for stop in request.options.stop), default=1) - 1

    def choose(self, logits: Tensor) -> int:
        """The next token out of (1, V) logits, by this answer's own settings."""
        written = torch.tensor([self.ids], dtype=torch.long, device=logits.device)
        scores = self.processors(written, logits.float())
        if self._refusal is not None and not self.ids:
            self._odds = float(answer_odds(logits, self._refusal))
            scores = scores.index_fill(1, torch.tensor([self._refusal], device=scores.device), float("-inf"))
        if self.request.options.temperature == 0:
            token = int(scores.argmax())
            self._log_prob += float(logits.float().log_softmax(dim=-1)[0, token])
            return token
        shares = scores.softmax(dim=-1)
        if not torch.isfinite(shares).all():  # on CUDA, drawing from these would end the process
            raise ValueError("the settings of this answer leave no token to draw: raise the temperature.")
        return int(torch.multinomial(shares, 1, generator=self.generator))

    def add(self, token: int) -> None:
        """Takes one more token; tells the request what text it adds, and the end if it is one."""
        self.ids.append(token)
        text, stopped = self._text()
        stopped = stopped or token in self._ends
        self.finished = stopped or len(self.ids) >= self.request.options.max_new_tokens
        text = text.strip() if self._strip and self.finished else text
        stable = text if self.finished else self._stable(text)
        if len(stable) > len(self._sent):
            self.request.tell(PIECE, stable[len(self._sent) :])
            self._sent = stable
        if self.finished:
            reason, count = "stop" if stopped else "length", len(self.ids)
            self.request.tell(DONE, Finished(text, reason, count, self._log_prob / count, self._odds))

    def _text(self) -> tuple[str, bool]:
        """The text up to the first stop text, and whether there is one."""
        text = self._tokenizer.decode(self.ids, skip_special_tokens=True)
        places = [place for stop in self.request.options.stop if (place := text.find(stop)) >= 0]
        text = text[: min(places)] if places else text
        return text.lstrip() if self._strip else text, bool(places)

    def _stable(self, text: str) -> str:
        """The text without what later tokens may change: half characters, a stop's start, white space."""
        text = text[: len(text) - self._hold].rstrip(UNFINISHED)
        return text.rstrip() if self._strip else text
