"""The objective inside transformers' ``Trainer``, for those whose training loop is that one.

The losses, weights and schedules are the same functions that ``stillhouse run`` minimises; only what stands around them is
the Trainer's. What only an own loop gives (no padding, no [N, V] tensors, exact resume, a control, an evaluation) stays there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from stillhouse.errors import ModelError, RecipeError, fail
from stillhouse.objective import terms_of
from stillhouse.recipe import Objective
from stillhouse.types import Batch, Output, Signal
from stillhouse.vocabulary import compare_vocabularies

IGNORED = -100
"""The label of a position that carries no loss, in transformers."""


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """A ``Trainer`` whose causal language model learns from a teacher.

    Sums over the positions that carry loss are divided once by their count over all micro-batches of the step and, with
    ``average_tokens_across_devices`` (the default), over all processes, so gradients do not depend on how a step is cut up.

    Args:
        model: the student.
        teacher: a causal language model with the student's tokens; heads padded to unequal sizes are cut to what both have. It is
            set to eval, is never trained and never saved.
        objective: as a recipe's section, ``{"alpha": 0.8, "temperature": 2.0}``; the defaults of a recipe if None. Terms
            on hidden states or attention are refused: they need ``stillhouse run``.
        teacher_tokenizer: compared with ``processing_class``, token by token, if both are given.
        **trainer: what ``Trainer`` takes.

    Raises:
        RecipeError: the objective has a mistake, or a term on layers.
        ModelError: the two tokenizers number their tokens otherwise.

    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        *,
        teacher: PreTrainedModel,
        objective: Objective | Mapping[str, Any] | None = None,
        teacher_tokenizer: Any = None,
        **trainer: Any,
    ) -> None:
        section = objective if isinstance(objective, Objective) else Objective.model_validate(dict(objective or {}))
        self.terms = terms_of(section)
        for term in self.terms:
            if term.want:
                way_out = "Distil with 'stillhouse run', or leave the term out."
                raise fail(RecipeError, "objective.terms", f"'{term.name}' compares layers, not logits", way_out)
            if any("counts_V" in inspect.signature(weight).parameters for weight in term.weights):
                what = f"'{term.name}' has a weight that goes by how rare a token is, which no Trainer counts"
                raise fail(RecipeError, "objective", what, "Distil with 'stillhouse run', or leave the weight out.")
        ours = trainer.get("processing_class")
        if teacher_tokenizer is not None and ours is not None:
            found = compare_vocabularies(ours, teacher_tokenizer)
            if not found.comparable:
                way_out = "Take a teacher with the student's tokenizer; 'stillhouse run' can align others."
                raise fail(ModelError, "teacher", f"has other tokens than the student: {found.example}", way_out)
        super().__init__(model, **trainer)
        self.model_accepts_loss_kwargs = (
            True  # the step's count of positions is wanted, whatever the student's forward takes
        )
        self.teacher = teacher.requires_grad_(False).eval().to(self.args.device)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective on one micro-batch; see ``Trainer.compute_loss``.

        Args:
            model: the student as the Trainer wrapped it; it is called, never what is inside.
            inputs: ``input_ids`` and ``labels`` [B, T], and what else both models take.
            return_outputs: whether the student's outputs are wanted too.
            num_items_in_batch: positions that carry loss in the whole step; those of this micro-batch if None.

        """
        given = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**given)
        with torch.no_grad():
            theirs = self.teacher(**given).logits
        labels_BT = inputs["labels"][:, 1:]
        at_BT = labels_BT != IGNORED
        labels_N = labels_BT[at_BT]
        batch = _positions(labels_N, at_BT)
        output = Output(outputs.logits[:, :-1][at_BT].float())
        signal = Signal(logits_NV=theirs[:, :-1][at_BT].float())
        progress = self.state.global_step / max(self.state.max_steps - 1, 1)
        total = (
            output.logits_NV.sum() * 0.0
        )  # a micro-batch without positions still takes part in what all processes do
        for term in self.terms:
            now = term.at(min(progress, 1.0))
            total = total + now.weight * (now.values(output, signal, batch) * now.counts(output, signal, batch)).sum()
        loss = total / (len(labels_N) if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # gradients of processes are averaged, and the count is of all
        return (loss, outputs) if return_outputs else loss


def _positions(labels_N: Tensor, at_BT: Tensor) -> Batch:
    """The positions of a padded micro-batch, as losses and weights look at them."""
    nothing = labels_N.new_zeros(0)
    document_N = at_BT.nonzero()[:, 0]
    weight_N = torch.ones(len(labels_N), device=labels_N.device)
    return Batch(nothing, nothing, (0,), nothing, labels_N, weight_N, document_N)
