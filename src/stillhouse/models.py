"""One face for every model: a trunk that gives hidden states where they count, and a head that makes logits of them.

Teacher and student are both a ``Model``. What is particular to a model family is known here and nowhere else.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from stillhouse import architectures, attention, grid, model_files
from stillhouse.adapters import Adapter, attach, merge
from stillhouse.errors import ModelError, RunError, fail
from stillhouse.packages import PREFIX, inside_package
from stillhouse.student import quantize
from stillhouse.types import Attended, Batch, Head
from stillhouse.vocabulary import pools_first


class Model(nn.Module):
    """A transformers model with its tokenizer, seen as trunk + head.

    Args:
        network: a causal language model, a sequence classifier whose last layer is linear, or an encoder without a head.
        tokenizer: what its token ids mean.
        name: what people call it.
        adapter: what is trained in place of its weights, if that is not themselves.
        grids: by name of the parameter, the integers and scales that its quantised matrices are exactly.

    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        adapter: Adapter | None = None,
        grids: Mapping[str, grid.Grid] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.grids = dict(grids)
        self.rounding: quantize.Rounding | None = None
        self.progress = 0.0  # share of the steps that are taken, while it learns
        self.network = network
        self.tokenizer = tokenizer
        self.name = name
        self.compute_dtype = torch.float32
        # Models that look their attention up, or whose other layers can be told where documents begin, can be handed
        # documents back to back; others get padded rows.
        dispatches = bool(getattr(network, "_supports_attention_backend", False))
        self.attends = dispatches and _is_attention_only(network)
        self.packs = self.attends or architectures.take_borders(network)
        self.dispatches = dispatches and self.packs
        if self.dispatches:
            network.set_attn_implementation(attention.NAME)

    @property
    def config(self) -> PreTrainedConfig:
        """The transformers configuration."""
        return self.network.config

    @property
    def trunk(self) -> nn.Module:
        """All but the head."""
        return self.network.base_model  # type: ignore[no-any-return]

    @property
    def bare(self) -> bool:
        """Whether it is a trunk alone, which says nothing yet."""
        return self.network.base_model is self.network

    @property
    def classifies(self) -> bool:
        """Whether its outcomes are classes of whole texts, not next tokens."""
        return type(self.network).__name__.endswith("ForSequenceClassification")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in their order, as its configuration has them."""
        names: dict[int, str] = self.config.id2label
        return tuple(names[index] for index in range(self.outcomes))

    @property
    def head_layer(self) -> nn.Linear:
        """The last linear layer."""
        layer = self.network.get_output_embeddings() or getattr(self.network, "score", None)
        layer = layer or getattr(self.network, "classifier", None)
        layer = getattr(layer, "out_proj", layer)  # of a head with a layer of its own before the last
        if not isinstance(layer, nn.Linear):
            raise fail(
                ModelError,
                self.name,
                f"a {type(self.network).__name__} has no linear last layer that is known here",
                "Use a causal language model, or adapt it to classes first: a student {name: classifier} with alpha: 0.",
            )
        return layer

    @property
    def head(self) -> Head:
        """The head, from the parameters as they are now; rounded as what lies before it was in the last forward pass."""
        layer, config = self.head_layer, self.config
        scale = float(getattr(config, "logit_scale", None) or 1.0)
        scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        quantiser = getattr(layer, "weight_fake_quantizer", None)
        weight_VH = layer.weight if quantiser is None else quantiser(layer.weight)
        return Head(weight_VH, layer.bias, scale, getattr(config, "final_logit_softcapping", None))

    @property
    def outcomes(self) -> int:
        """V: how many outcomes a position can have."""
        return self.head_layer.weight.shape[0]

    @property
    def layers(self) -> nn.ModuleList:
        """The repeated blocks, first to last."""
        for path in ("layers", "h", "encoder.layer", "transformer.layer", "decoder.layers"):
            found: Any = self.trunk
            for part in path.split("."):
                found = getattr(found, part, None)
            if isinstance(found, nn.ModuleList):
                return found
        raise fail(ModelError, self.name, f"the layers of a {type(self.network).__name__} are not known here")

    @property
    def shows(self) -> frozenset[str]:
        """What can be asked of its layers: states, and what they attend with where all do."""
        return frozenset({"hidden", "attention"} if self.attends else {"hidden"})

    @property
    def parameters_count(self) -> int:
        """Parameters, each storage counted once (tied embeddings are one)."""
        return sum(p.numel() for p in {id(p): p for p in self.network.parameters()}.values())

    @property
    def trained_count(self) -> int:
        """Parameters that training moves: all, or those of its adapter and of what a classifier has behind its layers."""
        if self.adapter is None:
            return self.parameters_count
        return self.adapter.parameters_count(self.network) + sum(p.numel() for p in self._behind())

    @property
    def first_position(self) -> int:
        """The number of a document's first position: RoBERTa counts from behind the one of its padding."""
        padding = getattr(getattr(self.trunk, "embeddings", None), "padding_idx", None)
        return 0 if padding is None else int(padding) + 1

    def _behind(self) -> list[nn.Parameter]:
        """What a classifier alone has behind its layers: the head, which may be fresh, and what pools for it."""
        trunk = f"{self.network.base_model_prefix}."
        return [
            parameter
            for name, parameter in self.network.named_parameters()
            if self.classifies and (not name.startswith(trunk) or name.startswith(f"{trunk}pooler."))
        ]

    def learn(self, seed: int = 0) -> None:
        """Get ready to be trained: all weights, or its adapter, which is put in, and what a classifier has behind its layers.

        Weights that are trained leave the grid they lay on.

        Args:
            seed: of the adapter's fresh weights.

        Raises:
            ModelError: it has an adapter, and there is no ``peft``.

        """
        self.requires_grad_(True)
        quantize.strip(self)
        self.grids = {}
        if self.adapter is not None:
            attach(self.network, self.adapter, seed)
            for parameter in self._behind():
                parameter.requires_grad_(True)

    def set_dropout(self, share: float) -> None:
        """Drop this share of what its layers hand on while it learns, whatever its configuration says."""
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            if isinstance(getattr(module, "attention_dropout", None), float):  # a number that attention is handed
                module.attention_dropout = share

    def settle(self) -> None:
        """Be what was trained: an adapter is merged into the weights, and weights that were seen rounded lie on their grids."""
        if self.rounding is not None and not self.grids:
            quantize.convert(self)
        if self.adapter is not None:
            merge(self.network)
            self.adapter = None

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Run the trunk's arithmetic in this type; weights, head and loss stay float32."""
        self.compute_dtype = dtype

    def read(self, batch: Batch) -> Tensor:
        """The hidden states at the positions that carry loss, [N, H], and nothing of the layers."""
        hidden_NH: Tensor = self(batch)[0]
        return hidden_NH

    def forward(self, batch: Batch, want: frozenset[str] = frozenset()) -> tuple[Tensor, dict[str, list[Any]]]:
        """What the head is given at the positions that count, [N, H] float32: the hidden states, pooled in a classifier.

        Args:
            batch: documents back to back.
            want: ``hidden`` for the states after every layer too, ``attention`` for what every layer attended with.

        Returns:
            hidden_NH, and by name the layers asked for: ``hidden`` a list of [P, H], embedding excluded, the last one
            after the final norm (as transformers gives them); ``attention`` a list of ``Attended``.

        """
        if self.rounding is not None:  # outside training always, so that what is measured then is what will be written
            self.rounding.switch(not self.training or self.progress >= self.rounding.after)
        device_type = batch.input_ids_P.device.type
        low = self.compute_dtype != torch.float32
        with torch.autocast(device_type, self.compute_dtype) if low else nullcontext():
            extra: dict[str, Any] = {"output_hidden_states": True} if "hidden" in want else {}
            seen: dict[int, Attended] = {}
            if "attention" in want:
                assert self.attends, f"{self.name} does not show what it attends with"
                extra["seen"] = seen
            types_P = self._token_types(batch)
            if self.packs:
                extra |= {} if types_P is None else {"token_type_ids": types_P[None]}
                extra |= {} if batch.seen_D is None else {"visible": batch.seen_D}
                out = self.trunk(
                    input_ids=batch.input_ids_P[None],
                    position_ids=batch.position_ids_P[None] + self.first_position,
                    use_cache=False,
                    borders=batch.borders_D1,
                    **extra,
                )
                rows: Any = 0
            else:
                assert batch.seen_D is None, f"{self.name} reads documents from the first token to the last"
                columns = {"input_ids": batch.input_ids_P}
                columns |= {} if types_P is None else {"token_type_ids": types_P}
                mask_DL, rows_DL = _rows(batch, columns)
                out = self.trunk(attention_mask=mask_DL.long(), use_cache=False, **rows_DL, **extra)
                rows = mask_DL
        hidden_PH = out.last_hidden_state[rows]
        layers: dict[str, list[Any]] = {}
        if "hidden" in want:
            layers["hidden"] = [x[rows] for x in out.hidden_states[1:]]
        if "attention" in want:
            layers["attention"] = list(seen.values())
        pool = getattr(self.network, "pool", None)
        if pool is not None:  # all states of a text, not those of one place
            lengths = [stop - start for start, stop in pairwise(batch.borders_D1)]
            return self._given(pool(list(hidden_PH.float().split(lengths))).index_select(0, batch.document_N)), layers
        return self._given(self._pooled(hidden_PH.index_select(0, batch.select_N).float())), layers

    def _given(self, hidden_NH: Tensor) -> Tensor:
        """What the head multiplies: rounded if its input is."""
        quantiser = None if self.rounding is None else getattr(self.head_layer, "activation_fake_quantizer", None)
        return hidden_NH if quantiser is None else quantiser(hidden_NH)

    def _pooled(self, hidden_NH: Tensor) -> Tensor:
        """What a classifier makes of its hidden states before its last layer; load compares it with the network's own."""
        network: Any = self.network
        last = getattr(network, "classifier", None)
        if not self.classifies or last is None:  # decoders have nothing in between
            return hidden_NH
        if hasattr(last, "out_proj"):  # RoBERTa
            hidden_NH = torch.tanh(last.dense(last.dropout(hidden_NH)))
            return last.dropout(hidden_NH)  # type: ignore[no-any-return]
        if hasattr(network, "pre_classifier"):  # DistilBERT
            return network.dropout(torch.relu(network.pre_classifier(hidden_NH)))  # type: ignore[no-any-return]
        pooler = getattr(self.trunk, "pooler", None)
        if pooler is not None:  # BERT
            hidden_NH = network.dropout(pooler.activation(pooler.dense(hidden_NH)))
        return hidden_NH

    def _token_types(self, batch: Batch) -> Tensor | None:
        """0 in the first text of a pair and 1 in the second, [P], for those that read the two apart; None for others.

        The second text begins behind the first separator, which no text can hold: there it is letters.
        """
        separator = self.tokenizer.sep_token_id
        apart = "token_type_ids" in self.tokenizer.model_input_names and separator is not None
        if not apart or getattr(self.config, "type_vocab_size", 0) < 2:
            return None
        ends_P = (batch.input_ids_P == separator).long()
        before_P = ends_P.cumsum(0) - ends_P
        first_P = torch.arange(len(ends_P), device=ends_P.device) - batch.position_ids_P
        types_P: Tensor = (before_P - before_P[first_P]).clamp(max=1)
        return types_P

    @contextmanager
    def generating(self) -> Iterator[PreTrainedModel]:
        """The network ready for ``generate``: eval mode, transformers' own attention and cache; as it was afterwards."""
        training = self.network.training
        self.network.eval()
        held = nullcontext() if self.rounding is None else self.rounding.held()
        if self.dispatches:
            fast = getattr(self.network, "_supports_sdpa", False)  # not with a soft cap on the scores (Gemma 2)
            self.network.set_attn_implementation("sdpa" if fast else "eager")
        try:
            with held:
                yield self.network
        finally:
            if self.dispatches:
                self.network.set_attn_implementation(attention.NAME)
            self.network.train(training)

    def in_floats(self) -> Model:
        """A copy, to be looked at, that multiplies its weights as they are with inputs that are not rounded."""
        copied = copy.deepcopy(self).eval()
        quantize.strip(copied)
        return copied

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer for ``from_pretrained``.

        Raises:
            RunError: the disk is full, or the folder cannot be written to.
        """
        try:
            with self.generating() as network, _quiet():
                network.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            model_files.write_old_rope_keys(folder / "config.json")
            if self.adapter is not None:
                self.adapter.write(folder)
            if self.grids:
                grid.write(folder, self.grids)
        except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
            what = f"{self.name} cannot be written there: {error}"
            raise fail(RunError, str(folder.parent), what, "Make room, and run the same command again.") from error


@contextmanager
def writing_by(network: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Let a network write by these settings alone, in ``generate`` without any.

    A model may bring a way to write of its own (a penalty for repetition, say), and transformers takes from it whatever is
    left unsaid: what is written then is neither drawn from the model's distribution nor its likeliest text.
    """
    brought, network.generation_config = network.generation_config, config
    try:
        yield
    finally:
        network.generation_config = brought


def fingerprint(network: nn.Module) -> str:
    """A hash of a network's weights: their names, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict(keep_vars=False).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_attention_only(network: PreTrainedModel) -> bool:
    """Whether nothing but attention carries information between tokens (no state-space or recurrent layers)."""
    kinds = set(getattr(network.config, "layer_types", None) or ["full_attention"])
    return kinds <= {"full_attention", "sliding_attention", "chunked_attention"} and not any(
        word in network.config.model_type for word in ("mamba", "rwkv", "rglru", "recurrent", "xlstm")
    )


def _rows(batch: Batch, columns: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Documents as padded rows [D, longest], for models that cannot take them back to back: which are real, each column."""
    starts, stops = batch.borders_D1[:-1], batch.borders_D1[1:]
    longest = max(b - a for a, b in zip(starts, stops, strict=True))
    mask_DL = torch.zeros(len(starts), longest, dtype=torch.bool, device=batch.input_ids_P.device)
    rows = {name: column_P.new_zeros(len(starts), longest) for name, column_P in columns.items()}
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        mask_DL[row, : stop - start] = True
        for name, column_P in columns.items():
            rows[name][row, : stop - start] = column_P[start:stop]
    return mask_DL, rows


# -- loading ------------------------------------------------------------------------------------------------------------


def load(
    model: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
    classes: int | None = None,
    name: str | None = None,
    where: str = "model",
    empty: bool = False,
) -> Model:
    """Load a model and its tokenizer in float32, from a folder, an installed package or the hub.

    What it is follows from its configuration: a sequence classifier, an encoder (whose head for masked words, if any, is
    left out: nothing here is taught by it), else a causal language model.

    Args:
        model: a folder, ``pkg:NAME`` of an installed package, or a hub id.
        revision: of the hub id.
        trust_remote_code: run code that lies beside the weights.
        gguf_file: a GGUF file's name inside ``model``.
        classes: load a sequence classifier of so many classes whatever the configuration says.
        name: what to call it; from the folder or hub id if not given.
        where: the recipe key to name in errors.
        empty: only the shapes, no weights: parameters lie on the meta device.

    Raises:
        ModelError: no such model, unknown type, unsafe or broken weights, rope settings that would be read wrongly.

    """
    if model.startswith(PREFIX):
        name = name or model.removeprefix(PREFIX)
        model = str(inside_package(model, "tokenizer.json", where).parent)
    folder = Path(model)
    local = folder.is_dir()
    if not local and (folder.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1):
        what = "is a file, not a model folder" if folder.exists() else "there is no such folder, and it is no hub id"
        raise fail(
            ModelError, where, f"'{model}': {what}", "Give a folder with config.json, org/name, or a .gguf file."
        )
    if local and gguf_file is None:
        model_files.check_folder(folder, where)
        architectures.make_known(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    missing: list[str] = []
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    common |= {"revision": revision} if revision else {}
    common |= {"gguf_file": gguf_file} if gguf_file else {}
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(model, **common)
            tokenizer = AutoTokenizer.from_pretrained(model, **common)
            kind = AutoModelForSequenceClassification if classes else _kind_of(config)
            if empty:
                with torch.device("meta"):
                    network = kind.from_config(config, trust_remote_code=trust_remote_code)
            else:
                safe = {} if gguf_file else {"use_safetensors": True}
                labels = {"num_labels": classes} if classes else {}
                network, found = kind.from_pretrained(
                    model, dtype=torch.float32, output_loading_info=True, **safe, **labels, **common
                )
                if kind is AutoModel and any(name.startswith("pooler.") for name in found["missing_keys"]):
                    network.pooler = None  # as the file has none; a classifier begins with a fresh one
                missing = sorted(found["missing_keys"])
        except Exception as error:
            raise _explain(error, model, where, local, gguf_file) from error
    _shed_quantization(network)
    if local and gguf_file is None:
        model_files.check_rope(folder, network.config, where)
        model_files.check_tie(folder, network, where)
    if missing and not (kind is AutoModel or classes):
        what = f"'{model}' holds no weights for {len(missing)} parameters, '{missing[0]}' among them"
        way_out = "Save it again with save_pretrained where it was trained: what is missing would be drawn at random."
        raise fail(ModelError, where, what, way_out)
    grids = {} if empty or not local else grid.of_weights(folder, network)
    loaded = Model(network, tokenizer, name or folder.name or model, Adapter.read(folder), grids)
    quantize.round_inputs(loaded)
    if not empty and not loaded.bare:
        _check_head(loaded, where)
    return loaded


def _kind_of(config: PreTrainedConfig) -> Any:
    """Which of transformers' families of classes a configuration names."""
    named = next(iter(config.architectures or []), "")
    if named.endswith("ForSequenceClassification"):
        return AutoModelForSequenceClassification
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and named.endswith(("Model", "ForMaskedLM", "ForPreTraining"))
    return AutoModel if encoder else AutoModelForCausalLM


def load_tokenizer(model: str, *, where: str = "tokenizer") -> PreTrainedTokenizerBase:
    """Load a fast tokenizer alone, from a folder, ``pkg:NAME`` or the hub; no code that lies beside it is run.

    Raises:
        ModelError: there is none, or it is not a fast one.
    """
    if model.startswith(PREFIX):
        model = str(inside_package(model, "tokenizer.json", where).parent)
    with _quiet():
        try:
            found = AutoTokenizer.from_pretrained(model)
        except Exception as error:
            text = str(error).strip().split("\n")[0]
            what = f"'{model}' holds no tokenizer that can be loaded: {text}"
            raise fail(ModelError, where, what, "Give a folder with tokenizer.json, or org/name.") from error
    if not found.is_fast:
        what = f"'{model}' has a {type(found).__name__}, which cannot say which characters a token stands for"
        raise fail(ModelError, where, what, "Take a model whose folder has a tokenizer.json.")
    return found


def _shed_quantization(network: PreTrainedModel) -> None:
    """A dequantised model still says that it is quantised, and then cannot be saved."""
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    for name in ("hf_quantizer", "quantization_method", "is_quantized"):
        if name in vars(network):
            delattr(network, name)


@torch.no_grad()
def _check_head(model: Model, where: str) -> None:
    """Refuse a model whose logits are not its head applied to its trunk: the mathematics here would be wrong for it."""
    special = {*model.tokenizer.all_special_ids, getattr(model.config, "pad_token_id", None)}
    rows = int(model.config.get_text_config().vocab_size)
    ids = torch.tensor(([i for i in range(rows) if i not in special] or [0])[:4])  # paddings would not be read
    position = torch.arange(len(ids))
    batch = Batch(ids, position, (0, len(ids)), position, position, torch.ones(len(ids)), torch.zeros_like(ids))
    was = model.training
    model.eval()
    hidden_NH, _ = model(batch)
    ours = model.head.logits(hidden_NH)
    with model.generating() as network:
        theirs = network(input_ids=ids[None], use_cache=False).logits[0]
    model.train(was)
    ours = ours if theirs.ndim == 2 else ours[0 if pools_first(model.tokenizer) else -1]
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2):
        raise fail(
            ModelError,
            where,
            f"the logits of a {type(model.network).__name__} are more than its last layer applied to its hidden states",
            "Use another model; this family is not supported yet.",
        )


def _explain(error: Exception, model: str, where: str, local: bool, gguf_file: str | None) -> ModelError:
    """Turn what transformers raises into one message with a way out."""
    text = str(error).strip().split("\n")[0]
    if "does not recognize this architecture" in str(error) or "Unrecognized model" in str(error):
        kind = re.search(r"model type `?([\w-]+)`?", str(error))
        named = f" '{kind.group(1)}'" if kind else ""
        return fail(
            ModelError,
            where,
            f"'{model}' is of a model type{named} that transformers does not know",
            "Upgrade transformers, or set teacher.trust_remote_code=true if you trust the code beside the weights.",
        )
    if "Unrecognized configuration class" in str(error):
        return fail(ModelError, where, f"'{model}' is not a causal language model", "Use a decoder model.")
    if gguf_file:
        return fail(
            ModelError, where, f"'{gguf_file}' cannot be read: {text}", "Fetch the file again; it may be cut short."
        )
    if not local and isinstance(error, OSError):
        return fail(
            ModelError,
            where,
            f"'{model}' is no folder here and cannot be had from the hub: {text}",
            "Check the name and the network (HF_HUB_OFFLINE, HF_TOKEN), or give a local folder.",
        )
    return fail(ModelError, where, f"'{model}' cannot be loaded: {type(error).__name__}: {text}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loaders' warnings and progress bars off the user's screen."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    logging.getLogger("gguf").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where the progress bars go
            yield
    finally:
        transformers_logging.set_verbosity(level)
