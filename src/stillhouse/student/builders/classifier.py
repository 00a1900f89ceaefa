"""A student that says of a text which class it is of."""

from __future__ import annotations

import copy

import torch
from transformers import AutoModelForSequenceClassification

from stillhouse.errors import ModelError, fail
from stillhouse.models import Model


def classifier(teacher: Model, classes: tuple[str, ...]) -> Model:
    """The teacher's trunk, all weights its own, with a fresh head for the classes of the data (Devlin et al. 2019, §4.1).

    Any encoder or language model becomes a classifier so: as the student of a first stage with ``alpha: 0`` it is the
    teacher, adapted. A pooler that the encoder brings is kept.

    Args:
        teacher: whose trunk.
        classes: their names in order, as the data's format has them.

    """
    if not classes:
        way_out = "Give the sources a format with classes: {name: labelled, classes: [negative, positive]}."
        raise fail(ModelError, "student", "a classifier needs classes, and the data has none", way_out)
    config = copy.deepcopy(teacher.config)
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: index for index, name in enumerate(classes)}
    config.problem_type = "single_label_classification"
    if config.pad_token_id is None:  # by which transformers finds the last token of a padded row
        config.pad_token_id = _padding(teacher)
    try:
        network = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        what = f"transformers has no sequence classifier of the type '{config.model_type}'"
        raise fail(ModelError, "student", what, "Take an encoder such as BERT, or a decoder such as Llama.") from error
    if not next(network.parameters()).is_meta:
        missing, unexpected = network.base_model.load_state_dict(teacher.trunk.state_dict(), strict=False)
        other = [name for name in (*missing, *unexpected) if not name.startswith("pooler.")]
        assert not other, f"the trunk of a {type(network).__name__} differs from its teacher's: {other[:3]}"
    return Model(network, teacher.tokenizer, f"{teacher.name}-{len(classes)}-classes").requires_grad_(True)


def _padding(teacher: Model) -> int | None:
    """The token that fills rows up, which no text ends with."""
    tokenizer = teacher.tokenizer
    found: int | None = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return found
