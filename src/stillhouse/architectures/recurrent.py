"""Recurrent networks: a language model of GRU or LSTM layers, and a classifier of bidirectional ones.

Every layer adds to one stream of states, as in a transformer: x + W cell(norm(x)). The stream is as wide as the embedding, so
embedding and head can be a teacher's, tied or not. A classifier reads in both directions and pools the states of a text by
their largest or mean values, then a layer with ReLU and the last one (the BiLSTM student of Tang et al. 2019,
arXiv:1903.12136, which takes the last states in place of pooled ones).

The copy of this file that is saved beside the weights serves where there is no Stillhouse: it imports nothing but torch,
transformers and its neighbour.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutput,
)

from .rows import lengths_of

CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}
"""Name → torch's kernel: a whole sequence in one call."""


@strict
class RecurrentConfig(PreTrainedConfig):  # type: ignore[misc]
    """What decides a recurrent network's shape.

    Args:
        hidden_size: width of the embedding and of the stream.
        state_size: width of a layer's recurrent state, of both directions together.
        cell: gru or lstm.
        bidirectional: whether layers read backwards too; for classifiers.
        pooling: max or mean, of a classifier.

    """

    model_type = "stillhouse_recurrent"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 – as transformers has it

    vocab_size: int = 32000
    hidden_size: int = 256
    state_size: int = 256
    num_hidden_layers: int = 2
    cell: str = "lstm"
    bidirectional: bool = False
    pooling: str = "max"
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.layer_types is None:  # whose cache keeps a state and knows how many tokens there were
            self.layer_types = ["hybrid"] * self.num_hidden_layers
        super().__post_init__(**kwargs)


class RecurrentLayer(GradientCheckpointingLayer):  # type: ignore[misc]
    """x + W cell(norm(x)), the cell in float32."""

    def __init__(self, config: RecurrentConfig, layer_idx: int) -> None:
        super().__init__()
        directions = 2 if config.bidirectional else 1
        self.layer_idx = layer_idx
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.cell = CELLS[config.cell](
            config.hidden_size, config.state_size // directions, batch_first=True, bidirectional=config.bidirectional
        )
        self.out = nn.Linear(config.state_size, config.hidden_size, bias=False)

    def forward(
        self,
        states: Tensor,
        *,
        real: Tensor | None = None,
        borders: tuple[int, ...] | None = None,
        past_key_values: Any = None,
    ) -> Tensor:
        """The stream after this layer, [B, L, H].

        Args:
            states: the stream before it.
            real: which tokens are no padding, [B, L]; None if all are.
            borders: of documents back to back in the one row; each begins with a fresh state.
            past_key_values: transformers' cache, of which this layer's state is read and written.

        """
        normed = self.norm(states)
        with torch.autocast(normed.device.type, enabled=False):
            mixed = self._mix(normed.float(), real, borders, past_key_values)
        return states + self.out(mixed.to(normed.dtype))  # type: ignore[no-any-return]

    def _mix(self, x: Tensor, real: Tensor | None, borders: tuple[int, ...] | None, cache: Any) -> Tensor:
        if borders is not None:
            packed = pack_sequence(list(x[0].split(lengths_of(borders))), enforce_sorted=False)  # type: ignore[no-untyped-call]
            return torch.cat(unpack_sequence(self.cell(packed)[0]))[None]
        kept = cache.layers[self.layer_idx] if cache is not None else None
        begun = kept.recurrent_states[0] if kept is not None else None  # [B, h] or, of an LSTM, [B, h then c]
        state = self._split(begun)
        if real is None:
            out, state = self.cell(x, state)
        else:
            rows = [row[mask] for row, mask in zip(x, real, strict=True)]
            packed, state = self.cell(pack_sequence(rows, enforce_sorted=False), state)
            out = x.new_zeros(*x.shape[:2], self.out.in_features)
            out[real] = torch.cat(unpack_sequence(packed))
        if kept is not None:
            kept.update_recurrent_state(self._join(state))
            counted = x.new_empty(
                x.shape[0], 1, x.shape[1], 0
            )  # keys and values without width, by which tokens are counted
            kept.update(counted, counted)
        return out  # type: ignore[no-any-return]

    def _split(self, begun: Tensor | None) -> Any:
        """The state of one direction as the kernel takes it, [1, B, R] each."""
        if begun is None:
            return None
        if isinstance(self.cell, nn.GRU):
            return begun[None].contiguous()
        return tuple(part[None].contiguous() for part in begun.chunk(2, -1))

    def _join(self, state: Any) -> Tensor:
        """The state as the cache keeps it: a row for each text."""
        return state[0] if isinstance(self.cell, nn.GRU) else torch.cat([part[0] for part in state], -1)


class RecurrentPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What the two share."""

    config_class = RecurrentConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    takes_borders = True
    _no_split_modules = ["RecurrentLayer"]  # noqa: RUF012
    _is_stateful = True


class RecurrentModel(RecurrentPreTrainedModel):
    """Embedding, layers and a last norm."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([RecurrentLayer(config, index) for index in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool = False,
        borders: tuple[int, ...] | None = None,
        **kwargs: Any,  # noqa: ARG002 – transformers hands down more than is read here
    ) -> BaseModelOutputWithPast:
        """States [B, L, H]; of documents back to back in one row if ``borders`` says where they begin.

        Args:
            input_ids: tokens [B, L].
            attention_mask: 1 for tokens and 0 for padding, on either side, of all tokens so far.
            past_key_values: transformers' cache.
            inputs_embeds: in place of the tokens.
            use_cache: whether to keep the states that the texts end with.
            output_hidden_states: whether to give the states after every layer.
            borders: where documents start and the last ends, ``(0, …, L)``, B being 1.
            kwargs: positions and the like, which a recurrent network does not need.

        """
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        real = None if attention_mask is None else attention_mask[:, -states.shape[1] :].bool()
        real = None if real is not None and bool(real.all()) else real
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if use_cache and past_key_values is None and not self.config.bidirectional and not self.training:
            past_key_values = DynamicCache(config=self.config)
        every = [states]
        for layer in self.layers:
            states = layer(states, real=real, borders=borders, past_key_values=past_key_values)
            every.append(states)
        every[-1] = states = self.norm(states)
        return BaseModelOutputWithPast(
            last_hidden_state=states,
            past_key_values=past_key_values,
            hidden_states=tuple(every) if output_hidden_states else None,
        )


class RecurrentForCausalLM(RecurrentPreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A language model; its state is as large after a long text as after a short one."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor | None = None, labels: Tensor | None = None, logits_to_keep: int = 0, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V] of the next tokens, or of the last ``logits_to_keep`` positions."""
        out = self.model(input_ids=input_ids, **kwargs)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        loss = None if labels is None else self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=out.past_key_values, hidden_states=out.hidden_states
        )


class RecurrentForSequenceClassification(RecurrentPreTrainedModel):
    """A classifier of whole texts."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.model = RecurrentModel(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.score = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def pool(self, texts: list[Tensor]) -> Tensor:
        """What the last layer is given, [D, H], of the states of each text, [its tokens, H]."""
        pooled = [states.amax(0) if self.config.pooling == "max" else states.mean(0) for states in texts]
        return torch.relu(self.dense(torch.stack(pooled)))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of the classes; without a mask every token counts."""
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        states = out.last_hidden_state
        rows = (
            list(states)
            if attention_mask is None
            else [x[m.bool()] for x, m in zip(states, attention_mask, strict=True)]
        )
        logits = self.score(self.pool(rows))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=out.hidden_states)


AutoConfig.register(RecurrentConfig.model_type, RecurrentConfig, exist_ok=True)
AutoModelForCausalLM.register(RecurrentConfig, RecurrentForCausalLM, exist_ok=True)
AutoModelForSequenceClassification.register(RecurrentConfig, RecurrentForSequenceClassification, exist_ok=True)
RecurrentConfig.register_for_auto_class()
RecurrentForCausalLM.register_for_auto_class("AutoModelForCausalLM")
RecurrentForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
