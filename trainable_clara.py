"""What of a model trains, and activation checkpointing that keeps the adapters right."""

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from .adapters_clara import CheckpointContexts, adapter_names, adapter_parameters, tuner_layers
from .merging_clara import forget, merge


class TrainableModel(PreTrainedModel):
    """A model with a frozen `decoder`, its adapters, and parameters of its own."""

    supports_gradient_checkpointing = True

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters beside base and adapters, by name."""
        return dict(self.named_parameters(recurse=False))

    def freeze_base(self) -> None:
        """Takes every base weight out of training; adapters and own parameters keep their state."""
        keep = {id(parameter) for parameter in adapter_parameters(self.decoder)}
        for parameter in self.decoder.parameters():
            if id(parameter) not in keep:
                parameter.requires_grad_(False)

    def set_trainable(
        self, adapters: Iterable[str], memory_tokens: bool, connector: bool | None = None
    ) -> None:
        """Sets exactly what trains: the named adapters, the memory tokens, the connector; unmerges all.

        Args:
            adapters: Names of the adapters that train; the others are frozen.
            memory_tokens: Whether the memory tokens train.
            connector: Whether the connector trains; as the memory tokens by default.

        Raises:
            ValueError: If an adapter is unknown.
        """
        forget(tuner_layers(self.decoder))
        adapters = set(adapters)
        unknown = sorted(adapters - set(adapter_names(self.decoder)))
        if unknown:
            raise ValueError(f"`adapters` names {unknown}, the model has {adapter_names(self.decoder)}.")
        for name in adapter_names(self.decoder):
            for parameter in adapter_parameters(self.decoder, [name]):
                parameter.requires_grad_(name in adapters)
        wanted = {
            "memory_tokens": memory_tokens,
            "memory_gain": memory_tokens if connector is None else connector,
        }
        for name, parameter in self.own_parameters().items():
            parameter.requires_grad_(wanted[name])

    def merge_adapters(self, adapters: Iterable[str] = ("query_reasoner", "generator")) -> None:
        """Makes inference with the named adapters as fast as the plain base, for a copy of the weights each.

        The copies are rounded to the base's dtype, so in bfloat16 an answer may differ now and then. They are
        used where no gradient is computed, and dropped when an adapter is loaded or set to train.

        Args:
            adapters: Any but the compressor: memories must not depend on such an option.

        Raises:
            ValueError: If an adapter is unknown or the compressor, or the base is quantised or offloaded.
        """
        adapters = list(adapters)
        allowed = [name for name in adapter_names(self.decoder) if name != "compressor"]
        if not set(adapters) <= set(allowed):
            raise ValueError(f"`adapters` must be some of {allowed}, got {adapters}.")
        with self.lock:
            merge(tuner_layers(self.decoder), adapters)

    def unmerge_adapters(self) -> None:
        """Drops what `merge_adapters` made."""
        with self.lock:
            forget(tuner_layers(self.decoder))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, **kwargs: object
    ) -> None:
        """Turns activation checkpointing on; adapters worn at forward are worn again in the recomputation.

        Raises:
            ValueError: If re-entrant checkpointing is asked for: it gives wrong gradients with adapters.
        """
        options = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        if options["use_reentrant"]:
            raise ValueError(
                "`use_reentrant=True` gives silently wrong gradients when adapters are switched: "
                "leave it out or set it to False."
            )
        options["context_fn"] = CheckpointContexts(self.decoder)
        super().activation_checkpointing_enable(options, **kwargs)
