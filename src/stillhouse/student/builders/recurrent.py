"""A student of recurrent layers: a language model, or a classifier that reads in both directions."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor

from stillhouse.architectures.recurrent import (
    RecurrentConfig,
    RecurrentForCausalLM,
    RecurrentForSequenceClassification,
)
from stillhouse.errors import ModelError, fail
from stillhouse.models import Model
from stillhouse.student.importance import Sample, token_counts
from stillhouse.student.products import split_rows


def recurrent(
    teacher: Model,
    sample: Sample,
    *,
    cell: Literal["lstm", "gru"] = "lstm",
    layers: int = 2,
    state: int | None = None,
    embedding: int | None = None,
    pooling: Literal["max", "mean"] = "max",
) -> Model:
    """An LSTM or GRU language model, or a BiLSTM classifier (Tang et al. 2019, arXiv:1903.12136).

    Embedding and head are the teacher's, tied or not as there; the layers are fresh: there is no published way to make them
    of attention. Take trim_vocabulary before this one where the embedding is most of the student. The student is of a class
    of Stillhouse's: elsewhere it loads with ``trust_remote_code=True``, from the files beside it.

    Args:
        teacher: a language model or a classifier, whose kind the student is of.
        sample: texts whose tokens are counted, where the embedding gets thinner.
        cell: lstm or gru.
        layers: how many, one on another.
        state: width of each layer's state, both directions of a classifier together; the teacher's hidden width if not given.
        embedding: width of the embedding and of the hidden states; the teacher's if not given. Thinner, the table is the
            best of its rank for the tokens of the sample, as in low_rank.
        pooling: max or mean, over all hidden states of a text; of a classifier.

    """
    network = teacher.network
    table = getattr(network.get_input_embeddings(), "weight", None)
    if not (teacher.classifies or network.can_generate()):
        what = f"a {type(network).__name__} says neither next tokens nor classes"
        raise fail(ModelError, "student", what, "Adapt it in a first stage: student {name: classifier}, alpha: 0.")
    if table is None:
        way_out = "Leave low_rank out, and give embedding here."
        raise fail(ModelError, "student", "the teacher's embedding is factorised already", way_out)
    width = embedding or table.shape[1]
    state = state or table.shape[1]
    for name, value, most in (("layers", layers, None), ("state", state, None), ("embedding", width, table.shape[1])):
        if value < 1 or (most is not None and value > most):
            what = f"{value} is not {'at least 1' if most is None else f'between 1 and the teacher’s {most}'}"
            raise fail(ModelError, f"student.{name}", what, "Leave it out for the teacher's, or give a smaller number.")
    if teacher.classifies and state % 2:
        what = f"{state} cannot be shared by two directions"
        raise fail(ModelError, "student.state", what, f"Take {state + 1}.")
    tied = teacher.classifies or network.get_output_embeddings().weight is table
    config = RecurrentConfig(
        vocab_size=table.shape[0],
        hidden_size=width,
        state_size=state,
        num_hidden_layers=layers,
        cell=cell,
        bidirectional=teacher.classifies,
        pooling=pooling,
        tie_word_embeddings=tied and not teacher.classifies,
        **{name: getattr(teacher.config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")},
    )
    if teacher.classifies:
        config.id2label, config.label2id = dict(teacher.config.id2label), dict(teacher.config.label2id)
        config.problem_type = teacher.config.problem_type
        student = RecurrentForSequenceClassification._from_config(config)
    else:
        student = RecurrentForCausalLM._from_config(config)
        student.generation_config = copy.deepcopy(network.generation_config)
    if not table.is_meta:
        counts_V = None if width == table.shape[1] else token_counts(teacher, sample(), table.shape[0])
        with torch.no_grad():
            student.get_input_embeddings().weight.copy_(_thinner(table, counts_V, width))
            if not tied:
                theirs = network.get_output_embeddings().weight
                student.get_output_embeddings().weight.copy_(_thinner(theirs, counts_V, width))
    return Model(student, teacher.tokenizer, f"{teacher.name}-{cell}").requires_grad_(True)


def _thinner(weight_VH: Tensor, counts_V: Tensor | None, width: int) -> Tensor:
    """The matrix, or the left factor of the best product of that rank."""
    return weight_VH if counts_V is None else split_rows(weight_VH, counts_V, width)[0]
