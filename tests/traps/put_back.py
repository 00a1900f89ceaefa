"""Put each trap back into a copy of the source and see that its test notices: ``python tests/traps/put_back.py [numbers]``.

A test that cannot fail is worse than none. Exits with 1 if a trap that was put back went unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"

TRAPS: dict[int, str] = {
    1: "T² only in the logged loss, or nowhere",
    2: "labels and their mask shifted differently, or twice",
    3: "padding or prompts counted",
    4: "a mean over the vocabulary, or of micro-batch means",
    5: "a gradient of the wrong scale, hidden by AdamW",
    6: "generalised JSD that vanishes towards β = 0 and jumps there",
    7: "top-k targets as partial sums, or renormalised",
    8: "the remainder recomputed from rounded values",
    9: "temperature on truncated log-probabilities",
    10: "padded heads matched with zeros",
    11: "equal sizes taken for equal vocabularies",
    12: "a divergence in half precision; −inf in a product",
    13: "a teacher in train mode, or among what is trained",
    14: "a forward past the wrapper that reduces gradients",
    15: "tied weights counted twice, or cut apart",
    16: "the embedding taken for a layer; layer i from layer i",
    17: "projections exported with the student",
    18: "stored signals fetched by order; a foreign store",
    19: "a cross-entropy called KL",
    20: "loss terms balanced by their own size",
    21: "a teacher that does not know the text",
    22: "a student that never ends",
    23: "the distillation loss taken for the verdict",
    24: "retention that counts what chance gives",
    25: "half precision on a machine without it",
    26: "a reference that shares code with what it checks",
}


@dataclass(frozen=True)
class Patch:
    """A trap put back.

    Args:
        trap: its number.
        file: under ``src/stillhouse``.
        old: what stands there, once.
        new: what it is replaced by.
        test: id of the test that must fail, in the folder of the tests that are asked.
    """

    trap: int
    file: str
    old: str
    new: str
    test: str


_LOSS, _POSITIONS, _SIGNALS, _MODELS, _VERDICTS = (
    f"test_traps_{part}.py" for part in ("loss", "positions", "signals", "models", "verdicts")
)
_BOTH_SCALES = "const float q = soft[row] * T / (float)zs, p = soft[row] * T / (float)zt;"
_REVERSE = "return (log_q_NS.exp() * (log_q_NS - log_p_NS)).sum(-1) * temperature**2"
_PART = "return (log_q_NK if teacher.sampled else with_rest(log_q_NK)), _finite(log_p_NS)"
_LABELS = "labels_P=np.where(loss_Q, ids_Q, np.int32(NO_LOSS))[said_Q]"
_BACKWARD = "loss.backward()  # type: ignore[no-untyped-call]"

PATCHES: tuple[Patch, ...] = (
    Patch(
        1,
        "rows.c",
        _BOTH_SCALES,
        "const float q = soft[row] / T / (float)zs, p = soft[row] / T / (float)zt;",
        f"{_LOSS}::test_trap_01_temperature_squared[compiled-forward_kl]",
    ),
    Patch(
        1,
        "rows.py",
        "gradient_NV[:, :shared] += log_q_NS.exp_().sub_(p_NS).mul_(soft_N[:, None] * temperature)",
        "gradient_NV[:, :shared] += log_q_NS.exp_().sub_(p_NS).mul_(soft_N[:, None] / temperature)",
        f"{_LOSS}::test_trap_01_temperature_squared[torch-forward_kl]",
    ),
    Patch(
        1,
        "objective/losses/reverse_kl.py",
        _REVERSE,
        "value_N = (log_q_NS.exp() * (log_q_NS - log_p_NS)).sum(-1)\n"
        "    return value_N + (value_N * (temperature**2 - 1)).detach()",
        f"{_LOSS}::test_trap_01_temperature_squared[compiled-reverse_kl]",
    ),
    Patch(
        2,
        "data/render.py",
        _LABELS,
        "labels_P=np.where(loss_Q[read_Q], ids_Q[said_Q], np.int32(NO_LOSS))",
        f"{_POSITIONS}::test_trap_02_one_shift_for_labels_and_mask",
    ),
    Patch(
        2,
        "data/render.py",
        _LABELS,
        "labels_P=np.where(loss_Q[said_Q], ids_Q[read_Q], np.int32(NO_LOSS))",
        f"{_POSITIONS}::test_trap_02_one_shift_for_labels_and_mask",
    ),
    Patch(
        2,
        "models.py",
        "self._pooled(hidden_PH.index_select(0, batch.select_N).float())), layers",
        "self._pooled(hidden_PH.index_select(0, (batch.select_N - 1).clamp_min(0)).float())), layers",
        f"{_POSITIONS}::test_trap_02_one_shift_for_labels_and_mask",
    ),
    Patch(
        3,
        "trainer/loop.py",
        "weight = sum(float(b.weight_N.double().sum()) for b in batches)",
        "weight = sum(float(len(b.input_ids_P)) for b in batches)",
        f"{_POSITIONS}::test_trap_03_what_carries_no_loss_changes_nothing[True]",
    ),
    Patch(
        3,
        "models.py",
        "mask_DL[row, : stop - start] = True",
        "mask_DL[row] = True",
        f"{_POSITIONS}::test_trap_03_what_carries_no_loss_changes_nothing[False]",
    ),
    Patch(
        3,
        "data/pieces.py",
        "select = np.flatnonzero(labels != NO_LOSS)",
        "select = np.arange(len(labels))",
        f"{_POSITIONS}::test_trap_03_prompts_are_not_counted",
    ),
    Patch(
        4,
        "trainer/loop.py",
        _BACKWARD,
        "(loss * weight / max(float(batch.weight_N.sum()), 1.0) / most).backward()",
        f"{_POSITIONS}::test_trap_04_micro_batches_of_any_size",
    ),
    Patch(
        4,
        "rows.c",
        _BOTH_SCALES,
        "const float q = soft[row] * T / (float)zs / (float)V, p = soft[row] * T / (float)zt / (float)V;",
        f"{_POSITIONS}::test_trap_04_the_size_of_the_vocabulary_divides_nothing[forward_kl]",
    ),
    Patch(
        4,
        "objective/losses/reverse_kl.py",
        _REVERSE,
        _REVERSE.replace(".sum(-1)", ".mean(-1)"),
        f"{_POSITIONS}::test_trap_04_the_size_of_the_vocabulary_divides_nothing[reverse_kl]",
    ),
    Patch(
        5,
        "trainer/loop.py",
        _BACKWARD,
        "(8.0 * loss).backward()",
        f"{_POSITIONS}::test_trap_05_the_scale_of_the_gradient",
    ),
    Patch(
        6,
        "objective/losses/js.py",
        "return (student_NS + teacher_NS).sum(-1) * temperature**2",
        "return (student_NS + teacher_NS).sum(-1) * beta * (1.0 - beta) * temperature**2",
        f"{_LOSS}::test_trap_06_generalised_jsd_has_no_jump_at_its_end",
    ),
    Patch(
        7,
        "objective/support.py",
        _PART,
        "return log_q_NK, _finite(log_p_NS[:, : teacher.ids_NK.shape[-1]])",
        f"{_SIGNALS}::test_trap_07_a_part_of_the_teacher[reverse_kl]",
    ),
    Patch(
        7,
        "objective/support.py",
        _PART,
        "named = teacher.ids_NK.shape[-1]\n"
        "    return torch.log_softmax(log_q_NK, -1), _finite(torch.log_softmax(log_p_NS[:, :named], -1))",
        f"{_SIGNALS}::test_trap_07_a_part_of_the_teacher[js]",
    ),
    Patch(
        7,
        "objective/chunks.py",
        "if signal.sampled:\n                logp_NS = F.pad(logp_NS, (0, 1), value=-math.inf)",
        "if True:\n                logp_NS = F.pad(logp_NS[:, : signal.ids_NK.shape[1]], (0, 1), value=-math.inf)",
        f"{_SIGNALS}::test_trap_07_a_part_of_the_teacher[forward_kl]",
    ),
    Patch(
        7,
        "check.py",
        'elif truncated and "topk" in needs:',
        "elif False:",
        f"{_SIGNALS}::test_trap_07_reverse_kl_is_warned_of_a_truncated_teacher",
    ),
    Patch(
        8,
        "teacher/codec.py",
        "rest_N = torch.nn.functional.logsigmoid(logit_N)",
        "named_NK = (depth_NK + named_N[:, None]).half().float().exp()\n"
        "        rest_N = torch.log((1.0 - named_NK.sum(-1)).clamp_min(1e-30))",
        f"{_SIGNALS}::test_trap_08_the_remainder_is_stored",
    ),
    Patch(
        8,
        "teacher/codec.py",
        "rest_N = logits_NV.sub_(most_N1).exp_().sum(-1).log()",
        "named_NK = (top_NK - most_N1).exp()\n"
        "            total_N = logits_NV.sub_(most_N1).exp_().sum(-1) + named_NK.sum(-1)\n"
        "            rest_N = ((1.0 - (named_NK / total_N[:, None]).sum(-1)).clamp_min(1e-30) * total_N).log()",
        f"{_SIGNALS}::test_trap_08_the_remainder_is_stored",
    ),
    Patch(
        9,
        "objective/support.py",
        "spread_S = log_p_NS.new_tensor([0.0] * named + [math.log(max(outcomes - named, 1))])",
        "spread_S = log_p_NS.new_tensor([0.0] * (named + 1))",
        f"{_SIGNALS}::test_trap_09_temperature_of_a_part[2.0]",
    ),
    Patch(
        9,
        "teacher/sources/served.py",
        '"max_tokens": 1, "temperature": 1.0}',
        '"max_tokens": 1, "temperature": 2.0}',
        f"{_SIGNALS}::test_trap_09_a_server_is_asked_at_temperature_one",
    ),
    Patch(
        10,
        "objective/support.py",
        "shared = min(logits_NV.shape[-1], theirs_NV.shape[-1])",
        "shared = max(logits_NV.shape[-1], theirs_NV.shape[-1])\n"
        "        logits_NV = torch.nn.functional.pad(logits_NV, (0, shared - logits_NV.shape[-1]))\n"
        "        theirs_NV = torch.nn.functional.pad(theirs_NV, (0, shared - theirs_NV.shape[-1]))",
        f"{_SIGNALS}::test_trap_10_a_padded_head[student-reverse_kl]",
    ),
    Patch(
        10,
        "objective/chunks.py",
        "theirs_NV = signal.logits_NV if ours else signal.logits_NV.clone()",
        "theirs_NV = F.pad(signal.logits_NV, (0, max(0, logits_NV.shape[1] - signal.logits_NV.shape[1])))",
        f"{_SIGNALS}::test_trap_10_a_padded_head[student-forward_kl]",
    ),
    Patch(
        11,
        "vocabulary.py",
        "shared = next((i for i in range(both) if ours[i] != theirs[i]), both)",
        "shared = both",
        f"{_SIGNALS}::test_trap_11_ids_that_mean_something_else",
    ),
    Patch(
        11,
        "run.py",
        "if found.comparable or not master.forms:",
        "if len(tokenizer) == len(master.tokenizer) or not master.forms:",
        f"{_SIGNALS}::test_trap_11_ids_that_mean_something_else",
    ),
    Patch(
        12,
        "objective/support.py",
        "logits_NV = student.logits_NV if student.logits_NV.dtype == torch.float64 else student.logits_NV.float()",
        "logits_NV = student.logits_NV",
        f"{_LOSS}::test_trap_12_half_precision[reverse_kl]",
    ),
    Patch(
        12,
        "objective/support.py",
        "return log_p_NS.clamp_min(_NONE)",
        "return log_p_NS",
        f"{_LOSS}::test_trap_12_outcomes_that_are_ruled_out[reverse_kl]",
    ),
    Patch(
        13,
        "teacher/__init__.py",
        "self.model.eval()\n        hidden_NH",
        "hidden_NH",
        f"{_MODELS}::test_trap_13_the_teacher_does_not_learn_and_does_not_forget",
    ),
    Patch(
        13,
        "teacher/__init__.py",
        "self.model = model.requires_grad_(False).eval()",
        "self.model = model.eval()",
        f"{_MODELS}::test_trap_13_the_teacher_does_not_learn_and_does_not_forget",
    ),
    Patch(
        14,
        "trainer/loop.py",
        "loss, parts = learner(given, signal, denominator, step)",
        "loss, parts = learner.forward(given, signal, denominator, step)",
        f"{_MODELS}::test_trap_14_gradients_meet",
    ),
    Patch(
        14,
        "trainer/distributed.py",
        "part.set_gradient_divide_factor(1.0)\n            part.set_force_sum_reduction_for_comms(True)",
        "part.set_requires_gradient_sync(False)",
        f"{_MODELS}::test_trap_14_gradients_meet",
    ),
    Patch(
        15,
        "models.py",
        "return sum(p.numel() for p in {id(p): p for p in self.network.parameters()}.values())",
        "return sum(t.numel() for t in self.network.state_dict().values())",
        f"{_MODELS}::test_trap_15_tied_weights_count_once[drop_layers-True]",
    ),
    Patch(
        15,
        "student/width.py",
        "value = value if index is None else value.index_select(axis, index.to(device))",
        'index = torch.arange(len(index)) if index is not None and "head" in name else index\n'
        "                value = value if index is None else value.index_select(axis, index.to(device))",
        f"{_MODELS}::test_trap_15_embedding_and_head_lose_the_same_channels[False]",
    ),
    Patch(
        16,
        "models.py",
        'layers["hidden"] = [x[rows] for x in out.hidden_states[1:]]',
        'layers["hidden"] = [x[rows] for x in out.hidden_states[:-1]]',
        f"{_MODELS}::test_trap_16_layers_are_counted_from_the_first_block",
    ),
    Patch(
        16,
        "objective/layers/uniform.py",
        "return [(i * student // pairs, i * teacher // pairs) for i in range(1, pairs + 1)]",
        "return [(i, i) for i in range(1, pairs + 1)]",
        f"{_MODELS}::test_trap_16_layers_are_counted_from_the_first_block",
    ),
    Patch(
        16,
        "objective/__init__.py",
        'signal.layers["hidden"][t - 1]',
        'signal.layers["hidden"][t - 2]',
        f"{_MODELS}::test_trap_16_a_term_learns_from_the_layer_it_names",
    ),
    Patch(
        17,
        "objective/__init__.py",
        "self.projections = nn.ModuleDict(projections)",
        "self.projections = student.network.projections = nn.ModuleDict(projections)",
        f"{_MODELS}::test_trap_17_learned_projections_stay_behind",
    ),
    Patch(
        18,
        "teacher/store.py",
        "columns[name][here] = stored[row_N[here]]",
        "columns[name][here] = stored[: len(here)]",
        f"{_SIGNALS}::test_trap_18_stored_signals_belong_to_an_example",
    ),
    Patch(
        18,
        "teacher/sources/store.py",
        'refuse_foreign(Path(path), found.manifest, wanted | {"signal": codec.settings()})',
        "assert wanted",
        f"{_SIGNALS}::test_trap_18_a_foreign_store_is_refused",
    ),
    Patch(
        19,
        "objective/losses/forward_kl.py",
        "log_p_NS.exp() * (log_p_NS - log_q_NS)",
        "log_p_NS.exp() * -log_q_NS",
        f"{_LOSS}::test_trap_19_nothing_to_learn_is_zero[forward_kl]",
    ),
    Patch(
        19,
        "rows.c",
        "const float difference = (b[v] - top_t) - (a[v] - top_s);",
        "const float difference = -(a[v] - top_s);",
        f"{_LOSS}::test_trap_19_nothing_to_learn_is_zero[forward_kl]",
    ),
    Patch(
        19,
        "rows.c",
        "sum_x += p[v] * ((b[v] - top_b) - (a[v] - top_a));",
        "sum_x -= p[v] * (a[v] - top_a);",
        f"{_LOSS}::test_trap_19_nor_is_there_a_gap_in_the_evaluation[compiled]",
    ),
    Patch(
        20,
        "objective/chunks.py",
        "parts = [w.weight * (v * c).sum() for w, v, c in zip(own, values, counts, strict=True)]",
        "parts = [(v * c).sum() / (v * c).sum().detach() for v, c in zip(values, counts, strict=True)]",
        f"{_LOSS}::test_trap_20_the_pull_fades_as_the_gap_closes",
    ),
    Patch(
        20,
        "objective/__init__.py",
        "total = total + term.weight(progress) * value / denominator",
        "total = total + value / value.detach() / denominator",
        f"{_LOSS}::test_trap_20_the_whole_is_a_fixed_sum_of_its_terms",
    ),
    Patch(
        21,
        "teacher/quality.py",
        "return self.bits_per_byte < self.floor_bits_per_byte",
        "return True",
        f"{_VERDICTS}::test_trap_21_a_teacher_that_does_not_know_this_text",
    ),
    Patch(
        21,
        "run.py",
        "if not found.useful:",
        "if not found.positions:",
        f"{_VERDICTS}::test_trap_21_a_teacher_that_does_not_know_this_text",
    ),
    Patch(
        22,
        "evaluate/samples.py",
        "stopped = bool(out) and out[-1] in ends",
        "stopped = bool(out)",
        f"{_VERDICTS}::test_trap_22_texts_that_never_end",
    ),
    Patch(
        22,
        "report/samples.py",
        'if written < 2 or stops["student"] or not stops["teacher"]:',
        "if True:",
        f"{_VERDICTS}::test_trap_22_texts_that_never_end",
    ),
    Patch(
        22,
        "data/render.py",
        "loss_Q[final_D] = loss_at_end_D",
        "loss_Q[final_D] = False",
        f"{_VERDICTS}::test_trap_22_a_student_can_learn_to_stop",
    ),
    Patch(
        23,
        "recipe.py",
        "control: bool = True",
        "control: bool = False",
        f"{_VERDICTS}::test_trap_23_gates_and_control_are_there_by_default",
    ),
    Patch(
        23,
        "evaluate/gates.py",
        "    if failed:\n        told",
        "    if len(failed) == len(gates):\n        told",
        f"{_VERDICTS}::test_trap_23_the_distillation_loss_is_no_verdict",
    ),
    Patch(
        24,
        "evaluate/statistics/keeping.py",
        "teacher_G = cluster_totals(sign * (teacher_N - floor_N), index_N, clusters)\n"
        "    student_G = cluster_totals(sign * (student_N - floor_N), index_N, clusters)",
        "teacher_G = cluster_totals(sign * teacher_N, index_N, clusters)\n"
        "    student_G = cluster_totals(sign * student_N, index_N, clusters)",
        f"{_VERDICTS}::test_trap_24_what_chance_would_have_scored",
    ),
    Patch(
        24,
        "evaluate/measures/performance.py",
        'items.loss("floor")[0],',
        '0.0 * items.loss("floor")[0],',
        f"{_VERDICTS}::test_trap_24_and_what_counts_alone_would_have_cost",
    ),
    Patch(
        25,
        "machine.py",
        "if half >= WORTH * full:",
        "if half > 0.0:",
        f"{_MODELS}::test_trap_25_arithmetic_is_measured",
    ),
    Patch(
        25,
        "recipe.py",
        '= "auto"\n    """Arithmetic of the student\'s',
        '= "bfloat16"\n    """Arithmetic of the student\'s',
        f"{_MODELS}::test_trap_25_arithmetic_is_measured",
    ),
    Patch(
        26,
        "models.py",
        "borders=batch.borders_D1,",
        "borders=(0, batch.borders_D1[-1]),",
        f"{_POSITIONS}::test_trap_26_a_reference_of_another_make",
    ),
)


def run(copy: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Python with a copy of the source in place of this one: exit code, and what it wrote."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",  # a file patched twice in a second may not be told apart by its time
        "XDG_CACHE_HOME": str(copy / "cache"),  # compiled rows that are wrong stay here
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


def ask(copy: Path, tests: Sequence[str], folder: str) -> tuple[int, str]:
    """As ``run``, of tests in a folder."""
    return run(copy, ["-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"{folder}/{test}" for test in tests)])


Ask = Callable[[Path, Sequence[str], str], tuple[int, str]]


def main(
    numbers: Sequence[int], patches: Sequence[Patch] = PATCHES, folder: str = "tests/traps", ask: Ask = ask
) -> int:
    """Put faults back one by one.

    Args:
        numbers: of traps; all if none.
        patches: what is put back.
        folder: of the tests that must notice.
        ask: how tests are run over a copy of the source.

    Returns:
        0 if each was noticed.
    """
    chosen = [patch for patch in patches if not numbers or patch.trap in numbers]
    noticed = 0
    with tempfile.TemporaryDirectory(prefix="put-back-") as place:
        copy = Path(place) / "src"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        _, where = run(copy, ["-c", "from importlib.util import find_spec; print(find_spec('stillhouse').origin)"])
        assert where.startswith(str(copy)), f"the copy is not what is tested: {where}"
        code, said = ask(copy, list(dict.fromkeys(patch.test for patch in chosen)), folder)
        if code:
            print(said, "\nThe tests do not pass as things stand: nothing can be told of what is put back.")
            return 1
        for patch in chosen:
            noticed += put_back(copy, patch, folder, ask)
    print(f"{noticed} of {len(chosen)} noticed, of {len({patch.trap for patch in chosen})} numbers")
    return 0 if noticed == len(chosen) else 1


def put_back(copy: Path, patch: Patch, folder: str, ask: Ask) -> bool:
    """Whether the test notices; the copy is as it was afterwards."""
    file = copy / "stillhouse" / patch.file
    whole = file.read_text(encoding="utf-8")
    assert whole.count(patch.old) == 1, f"{patch.file}: {patch.old!r} is not there once"
    file.write_text(whole.replace(patch.old, patch.new), encoding="utf-8")
    began = time.monotonic()
    code, said = ask(copy, [patch.test], folder)
    file.write_text(whole, encoding="utf-8")
    noticed = code == 1 and f"FAILED {folder}/{patch.test}" in said  # a failure, not a test that could not run
    seconds, word = time.monotonic() - began, "noticed" if noticed else "UNNOTICED"
    print(f"{patch.trap:>2} {word:<9} {seconds:>3.0f} s  {patch.file:<34} {patch.test.partition('::')[2]}", flush=True)
    if not noticed:
        print(said)
    return noticed


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
