"""The objective inside transformers' Trainer: gradients by the definition, whatever the cut; the teacher left alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from stillhouse.errors import StillhouseError
from stillhouse.integrations.hf_trainer import DistillationTrainer


def llama(seed: int, vocabulary: int = 40, layers: int = 1) -> hf.PreTrainedModel:
    torch.manual_seed(seed)
    return hf.LlamaForCausalLM(
        hf.LlamaConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2,
            num_key_value_heads=1, pad_token_id=0,
        )
    )  # fmt: skip


def rows(lengths: list[int], prompt: int = 2, seed: int = 5) -> list[dict[str, list[int]]]:
    """Rows padded to the longest, prompt and padding without loss."""
    chance = torch.Generator().manual_seed(seed)
    most, found = max(lengths), []
    for length in lengths:
        ids = torch.randint(1, 40, (length,), generator=chance).tolist()
        labels = [-100] * prompt + ids[prompt:]
        pad = most - length
        found.append(
            {
                "input_ids": ids + [0] * pad,
                "attention_mask": [1] * length + [0] * pad,
                "labels": labels + [-100] * pad,
            }
        )
    return found


def trainer_of(student: hf.PreTrainedModel, teacher: hf.PreTrainedModel, folder: Path, **options: Any) -> Any:
    settings = {
        "learning_rate": 0.5, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 1,
        "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "logging_strategy": "no", "seed": 1,
    }  # fmt: skip
    objective = options.pop("objective", {"alpha": 0.7, "temperature": 2.0})
    more = {name: options.pop(name) for name in ("processing_class", "teacher_tokenizer") if name in options}
    return DistillationTrainer(
        student,
        teacher=teacher,
        objective=objective,
        args=hf.TrainingArguments(output_dir=str(folder), **(settings | options)),
        train_dataset=rows([9, 6, 4, 8]),
        **more,
    )


def loss_by_hand(student: Any, teacher: Any, alpha: float, temperature: float) -> torch.Tensor:
    """Σ over the next tokens that carry loss of α T² KL + (1 − α) CE, over their count; a text at a time, unpadded."""
    total, count = torch.zeros(()), 0
    for row in rows([9, 6, 4, 8]):
        ids = [i for i, seen in zip(row["input_ids"], row["attention_mask"], strict=True) if seen]
        ours = student(torch.tensor([ids])).logits[0]
        with torch.no_grad():
            theirs = teacher(torch.tensor([ids])).logits[0]
        for t in range(len(ids) - 1):
            if row["labels"][t + 1] == -100:
                continue
            p, log_p = [(f(theirs[t] / temperature, -1)) for f in (torch.softmax, torch.log_softmax)]
            log_q = torch.log_softmax(ours[t] / temperature, -1)
            kl = sum(p[v] * (log_p[v] - log_q[v]) for v in range(len(p)))
            total = total + alpha * temperature**2 * kl - (1 - alpha) * torch.log_softmax(ours[t], -1)[ids[t + 1]]
            count += 1
    return total / count


@pytest.mark.parametrize(("size", "parts"), [(4, 1), (2, 2), (1, 4)])
def test_a_step_is_the_gradient_of_the_definition_however_it_is_cut(tmp_path: Path, size: int, parts: int) -> None:
    student, same, teacher = llama(1), llama(1), llama(2, layers=2)
    loss = loss_by_hand(same, teacher, 0.7, 2.0)
    loss.backward()
    trainer = trainer_of(
        student, teacher, tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=parts
    )
    trainer.train()
    for (name, after), before in zip(student.named_parameters(), same.parameters(), strict=True):
        expected = before.detach() - 0.5 * before.grad
        torch.testing.assert_close(after.detach(), expected, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_the_teacher_is_left_as_it_was_and_is_not_saved(tmp_path: Path) -> None:
    student, teacher = llama(1), llama(2, layers=2)
    was = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = trainer_of(student, teacher.train(), tmp_path)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert not teacher.training
    assert all(torch.equal(value, was[name]) for name, value in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert len(again.model.layers) == 1


def test_evaluation_is_the_mean_over_its_own_positions(tmp_path: Path) -> None:
    student, teacher = llama(1), llama(2)
    trainer = trainer_of(student, teacher, tmp_path, per_device_eval_batch_size=4)
    found = trainer.evaluate(rows([9, 6, 4, 8]))["eval_loss"]
    assert math.isclose(found, loss_by_hand(student, teacher, 0.7, 2.0).item(), rel_tol=1e-4)


def test_a_padded_head_is_cut_to_what_both_know(tmp_path: Path) -> None:
    trainer_of(llama(1), llama(2, vocabulary=48), tmp_path).train()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"terms": [{"name": "hidden_mse", "weight": 1.0}]}, "compares layers"),
        ({"soft": {"name": "forward_kl", "weights": ["token_rarity"]}}, "how rare"),
        ({"soft": "forward_lk"}, "forward_kl"),
    ],
)
def test_what_a_trainer_cannot_do_is_refused_with_a_way_out(tmp_path: Path, objective: Any, words: str) -> None:
    with pytest.raises(StillhouseError, match=words):
        trainer_of(llama(1), llama(2), tmp_path, objective=objective)


def test_weights_by_the_teachers_confidence_count_in_it(tmp_path: Path) -> None:
    plain = trainer_of(llama(1), llama(2), tmp_path)
    weighed = trainer_of(
        llama(1), llama(2), tmp_path, objective={"alpha": 1.0, "soft": {"name": "forward_kl", "weights": ["teacher_confidence"]}}
    )  # fmt: skip
    batch = {
        name: torch.tensor([row[name] for row in rows([9, 6])]) for name in ("input_ids", "attention_mask", "labels")
    }
    assert float(weighed.compute_loss(weighed.model, batch)) < float(plain.compute_loss(plain.model, batch))
