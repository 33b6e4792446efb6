"""ClaraConfig: every number of a CLaRa model, checked once when the configuration is made."""

from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

ADAPTERS = ("compressor", "query_reasoner", "generator")
READINGS = ("together", "each")

# The reference presets: the paper's two bases (section 4.1) at its compression rates (tables 1 and 5).
REFERENCE_BASES = {
    "clara-mistral-7b": "mistralai/Mistral-7B-Instruct-v0.2",
    "clara-phi4-mini": "microsoft/Phi-4-mini-instruct",
}
REFERENCE_COMPRESSION_RATES = (4, 16, 32, 64, 128, 256)

# Fields by what they hold: whole numbers from 1 on, of some few values; and those that may be None.
COUNTS = (
    "compression_rate", "doc_max_length", "question_max_length", "retrieval_top_k", "lora_r", "lora_alpha",
    "prompt_max_length", "encoder_length",
)  # fmt: skip
CHOICES = {
    "retrieval_estimator": ("straight_through", "gumbel"),
    "pooling": ("memory_tokens", "mean"),
    "retrieval_pooling": ("mean", "flatten"),
    "encoder_attention": ("causal", "bidirectional"),
    "connector": ("none", "rms"),
    "long_texts": ("split", "cut"),
    "encoder_positions": ("tokens", "columns"),
    "prompt_style": ("clara", "released"),
    "memory_order": ("score", "document"),
    "reading": READINGS,
}
OPTIONAL = ("prompt_max_length", "encoder_length", "reading_min_score", "reading_joint", "text_prefix")

# Fields that the processor has too, of the same names.
PROCESSOR_FIELDS = (
    "num_memory_tokens", "doc_max_length", "question_max_length", "pooling", "text_prefix", "text_suffix",
    "encoder_length", "long_texts", "prompt_style", "memory_suffix", "memory_marks",
)  # fmt: skip

# What a saved config.json may hold beside the declared fields.
LIBRARY_FIELDS = {
    "architectures", "attn_implementation", "auto_map", "custom_pipelines", "model_type", "name_or_path",
    "quantization_config", "tie_word_embeddings", "torch_dtype", "transformers_version",
}  # fmt: skip


class ClaraConfig(PreTrainedConfig):
    """Configuration of [`ClaraForRetrievalGeneration`]: a decoder-only causal LM and what CLaRa adds to it.

    Args:
        text_config: Configuration of the base causal LM, any decoder-only architecture of transformers.
        compression_rate: Document tokens per memory vector (rho, paper section 4.1). With `pooling` "mean" a
            passage of L tokens has ceil(L / rate) vectors; with memory tokens every passage has
            doc_max_length / rate.
        doc_max_length: Longest passage, in tokens (256 in the paper); longer documents are split.
        question_max_length: Longest question, in tokens; a longer one is an error.
        prompt_max_length: Longest prompt with its memory slots and answer, in tokens. None means the base's
            `max_position_embeddings`.
        retrieval_top_k: Documents chosen for a question (k = 5 in the paper).
        retrieval_min_score: Lowest cosine of the best passage at which a question is answered; below it the
            answer is that nothing was found. None: every question is answered.
        reading: How `generate` reads the chosen memories unless it is told: "together" in one prompt (the
            paper), or "each" alone, of whose answers the likeliest stays.
        reading_min_score: With `reading` "each" a question is answered where for some memory the log odds
            that it holds an answer (by the generator's first token) and its cosine / 0.1 together reach this;
            else that nothing was found. None: where the generator writes so for no memory.
        reading_joint: With `reading` "each" several memories are read together too, for answers that need two
            passages: this is added to that answer's mean log probability, and the best cosine / 0.1. None:
            they are read alone only.
        retrieval_temperature: Temperature of the soft top-k (0.02 in the reference implementation).
        retrieval_estimator: "straight_through" (paper algorithm 1) or "gumbel" (noise in training).
        pooling: "memory_tokens" (the paper: states at appended memory tokens) or "mean" (the mean state of
            every `compression_rate` tokens, arXiv 2510.20797).
        retrieval_pooling: The vector by which a memory is searched: "mean" (of its vectors) or "flatten" (all
            in one row, the paper's section 3.2; for memory tokens only).
        encoder_attention: How compressor and query reasoner attend: "causal" (the paper) or "bidirectional"
            (arXiv 2510.20797 v2, LLM2Vec; with attn_implementation "sdpa" or "eager").
        connector: What lies between a memory and the generator's input: "none" (the paper) or "rms"
            (RMS normalisation times a trained gain, started at the scale of the input embeddings).
        lora_r: Rank of each adapter.
        lora_alpha: LoRA scale numerator.
        lora_dropout: Dropout on the adapters' inputs while training.
        lora_target_modules: "all-linear" (the paper) or the names of the adapted linear layers.
        lora_rank_pattern: Ranks of layers that differ from `lora_r`, by name, such as {"down_proj": 32}.
        lora_alpha_pattern: Numerators of layers that differ from `lora_alpha`, by name.
        base_model_name_or_path: Where the frozen base comes from, for a checkpoint without base weights.
        base_model_revision: Revision of that base on the Hub.
        base_is_changed: The base's weights are not those of `base_model_name_or_path` (its embedding was
            trained or resized), so a checkpoint without them is refused.

    The fields below have the defaults of this implementation; checkpoints of the paper's released one were
    trained with other values, which `clara convert` sets.

    Args:
        text_prefix: What stands before every document and question for the encoder, special tokens included.
            None means the beginning-of-text token, where the base's tokenizer uses one.
        text_suffix: What stands after them.
        encoder_length: Tokens that every document and question is padded to on the left, prefix and suffix
            included; also their limit, in place of `doc_max_length` and `question_max_length`. None pads to
            the longest of a batch.
        long_texts: "split" (a longer document becomes passages, a longer question is an error) or "cut"
            (both are cut at the limit).
        encoder_positions: "tokens" (positions skip padding) or "columns" (padding counts).
        prompt_style: "clara" or "released", the wording of the prompts (prompts_clara).
        memory_suffix: Special tokens after each document's memory in the prompt.
        memory_marks: Special tokens of one document's place in the prompt, where memories are written over
            such places from the first on without a gap; what they leave uncovered stays. Empty: no such
            places (checkpoints of that code trained with `sep` off need this).
        memory_order: How chosen memories lie in the prompt: by "score" (best first), or as in the pool by
            "document".
        strip_answers: Take white space off both ends of an answer.

    Raises:
        ValueError: If a number is out of range; the message names it.
        TypeError: If a field is unknown or a number is of another type.
    """

    model_type = "clara"
    sub_configs_defaults = {"text_config": SubConfigSpec(AutoConfig, model_type="mistral")}

    text_config: dict | PreTrainedConfig | None = None
    compression_rate: int = 16
    doc_max_length: int = 256
    question_max_length: int = 256
    prompt_max_length: int | None = None
    retrieval_top_k: int = 5
    retrieval_min_score: float | None = None
    reading: str = "together"
    reading_min_score: float | None = None
    reading_joint: float | None = None
    retrieval_temperature: float = 0.02
    retrieval_estimator: str = "straight_through"
    pooling: str = "memory_tokens"
    retrieval_pooling: str = "mean"
    encoder_attention: str = "causal"
    connector: str = "none"
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_target_modules: str | list[str] = "all-linear"
    lora_rank_pattern: dict | None = None
    lora_alpha_pattern: dict | None = None
    base_model_name_or_path: str | None = None
    base_model_revision: str | None = None
    base_is_changed: bool = False
    text_prefix: str | None = None
    text_suffix: str = ""
    encoder_length: int | None = None
    long_texts: str = "split"
    encoder_positions: str = "tokens"
    prompt_style: str = "clara"
    memory_suffix: str = ""
    memory_marks: str = ""
    memory_order: str = "score"
    strip_answers: bool = True

    def __post_init__(self, **kwargs: object) -> None:
        """Builds the sub-configuration, then checks every field."""
        unknown = sorted(key for key in kwargs if key not in LIBRARY_FIELDS and not key.startswith("_"))
        if unknown:
            raise TypeError(f"ClaraConfig has no field {unknown}. Its fields are {sorted(FIELDS)}.")
        super().__post_init__(**kwargs)
        self._check_types()
        self._check_numbers()
        self._check_choices()

    def _check_types(self) -> None:
        kinds = (
            ("a whole number", (int,), COUNTS),
            ("a number", (int, float), ("retrieval_temperature", "lora_dropout")),
            ("a number, or None", (int, float), ("reading_min_score", "reading_joint")),
            ("a text", (str,), ("text_prefix", "text_suffix", "memory_suffix", "memory_marks")),
            ("true or false", (bool,), ("strip_answers", "base_is_changed")),
        )
        for kind, types, names in kinds:
            for name in names:
                value = getattr(self, name)
                if type(value) not in types and not (value is None and name in OPTIONAL):
                    raise TypeError(f"`{name}` must be {kind}, got {value!r}.")

    def _check_numbers(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.doc_max_length % self.compression_rate:
            raise ValueError(
                f"`compression_rate` must divide `doc_max_length`, got {self.compression_rate} and "
                f"{self.doc_max_length}: their ratio is the number of memory tokens of a document."
            )
        least = self.retrieval_min_score
        if least is not None and (type(least) not in (int, float) or not -1 <= least <= 1):
            raise ValueError(f"`retrieval_min_score` must be a cosine from -1 to 1, or None, got {least!r}.")
        if not self.retrieval_temperature > 0:
            raise ValueError(f"`retrieval_temperature` must be above 0, got {self.retrieval_temperature}.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"`lora_dropout` must be in [0, 1), got {self.lora_dropout}.")

    def _check_choices(self) -> None:
        for name in ("lora_rank_pattern", "lora_alpha_pattern"):
            value = getattr(self, name) or {}
            if not isinstance(value, dict) or not all(
                isinstance(key, str) and type(number) is int and number > 0 for key, number in value.items()
            ):
                raise ValueError(
                    f"`{name}` must map names of layers to whole numbers above 0, got {value!r}."
                )
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}.")
        if self.pooling == "mean" and self.retrieval_pooling == "flatten":
            raise ValueError(
                "`retrieval_pooling` 'flatten' needs memories of one length: set it to 'mean', or `pooling` "
                "to 'memory_tokens'."
            )

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs: object) -> "ClaraConfig":
        """As in transformers; fields among the keyword arguments are checked as in the constructor."""
        fields = {key: kwargs.pop(key) for key in list(kwargs) if key in FIELDS and key != "text_config"}
        return super().from_dict({**config_dict, **fields}, **kwargs)

    @property
    def num_memory_tokens(self) -> int:
        """M, the most memory vectors of a passage: `doc_max_length / compression_rate`."""
        return self.doc_max_length // self.compression_rate

    @property
    def prompt_limit(self) -> int:
        """The longest prompt in tokens: `prompt_max_length`, or what the base's positions allow."""
        return self.prompt_max_length or getattr(self.text_config, "max_position_embeddings", 2048)

    def way_of_reading(self, asked: str | None, options: dict[str, object]) -> str:
        """How memories are read: as asked, else as configured, or "together" where options rule "each" out.

        Raises a ValueError if it is unknown, or "each" was asked for with beams, several answers or sampling.
        """
        plain = {"num_beams": 1, "num_return_sequences": 1, "do_sample": False}
        odd = [name for name, value in plain.items() if (options.get(name) or value) != value]
        if asked is None:
            return "together" if odd else self.reading
        if asked not in READINGS:
            raise ValueError(f"`reading` must be one of {READINGS}, got {asked!r}.")
        if asked == "each" and odd:
            raise ValueError(f"`reading` 'each' answers greedily: leave `{odd[0]}` out, or read 'together'.")
        return asked

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: str, **kwargs: object) -> tuple[dict, dict]:
        """Reads config.json; without one transformers would silently take the defaults, a 7B model.

        Raises a FileNotFoundError if there is no config.json of a CLaRa model.
        """
        found, rest = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if "text_config" not in found:
            raise FileNotFoundError(f"{pretrained_model_name_or_path} has no config.json of a CLaRa model.")
        return found, rest

    @classmethod
    def from_preset(cls, name: str, compression_rate: int = 16, **kwargs: object) -> "ClaraConfig":
        """Configuration of a reference model: the paper's base with its LoRA and retrieval settings.

        Args:
            name: "clara-mistral-7b" or "clara-phi4-mini".
            compression_rate: 4, 16, 32, 64, 128 or 256.
            **kwargs: Fields to override, or Hub arguments for the base's configuration.

        Raises:
            ValueError: If the preset or the compression rate is not one of the paper's.
        """
        if name not in REFERENCE_BASES:
            raise ValueError(f"`name` must be one of {tuple(REFERENCE_BASES)}, got {name!r}.")
        if compression_rate not in REFERENCE_COMPRESSION_RATES:
            raise ValueError(
                f"`compression_rate` must be one of {REFERENCE_COMPRESSION_RATES} in a preset, "
                f"got {compression_rate}; call ClaraConfig(...) for another."
            )
        base = REFERENCE_BASES[name]
        text_config = kwargs.pop("text_config", None) or AutoConfig.from_pretrained(base)
        return cls(
            text_config=text_config, compression_rate=compression_rate, base_model_name_or_path=base, **kwargs
        )


FIELDS = frozenset(ClaraConfig.__annotations__)
ClaraConfig.register_for_auto_class()
