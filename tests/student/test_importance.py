"""Importance measured by the code against the same measured token by token, with loops."""

from __future__ import annotations

import math

import pytest
import torch
from zoo import make

from stillhouse.errors import DataError, ModelError
from stillhouse.models import Model
from stillhouse.student import importance
from stillhouse.student.importance import block_influence, norm_gains, perplexity_change, widths

TEXTS = ["The quick brown fox jumps", "A teacher says what it knows; a student keeps what it can."]


def recorded(teacher: Model, modules: dict[str, torch.nn.Module], text: str) -> dict[str, tuple[list, list]]:
    """What went into and came out of modules for one text, as plain lists of tokens' values."""
    seen: dict[str, tuple[list, list]] = {}
    handles = [
        module.register_forward_hook(
            lambda _m, args, out, name=name: seen.__setitem__(name, (args[0][0].tolist(), out[0].tolist()))
        )
        for name, module in modules.items()
    ]
    with teacher.generating() as network, torch.no_grad():
        network(input_ids=torch.tensor([teacher.tokenizer(text)["input_ids"]]))
    for handle in handles:
        handle.remove()
    return seen


def test_channels_and_heads_by_loops(tokenizer):
    teacher = make("llama", tokenizer)  # 4 heads of 8 channels in 2 groups, 32 hidden, 48 feed-forward
    found = widths(teacher, TEXTS)
    normed, embedded, groups, inner = (
        [0.0] * 32,
        [0.0] * 32,
        [[0.0] * 2 for _ in range(3)],
        [[0.0] * 48 for _ in range(3)],
    )
    norms = {n: m for n, m in teacher.network.named_modules() if n.endswith("norm")}
    assert len(norms) == 7
    modules = {**norms, "embedding": teacher.network.model.embed_tokens}
    for i in range(3):
        modules[f"o{i}"], modules[f"d{i}"] = teacher.layers[i].self_attn.o_proj, teacher.layers[i].mlp.down_proj
    documents = [recorded(teacher, modules, text) for text in TEXTS]

    def over_documents(means: list[float]) -> float:
        return math.sqrt(sum(m * m for m in means))

    for name in (*norms, "embedding"):
        for c in range(32):
            means = [sum(abs(token[c]) for token in d[name][1]) / len(d[name][1]) for d in documents]
            (embedded if name == "embedding" else normed)[c] += over_documents(means)
    hidden = [a * 32 / sum(normed) + b * 32 / sum(embedded) for a, b in zip(normed, embedded, strict=True)]
    for i in range(3):
        for c in range(48):
            means = [math.sqrt(sum(token[c] ** 2 for token in d[f"d{i}"][0]) / len(d[f"d{i}"][0])) for d in documents]
            inner[i][c] = over_documents(means)
        for g in range(2):
            means = []
            for d in documents:
                tokens = d[f"o{i}"][0]
                heads = [
                    sum(math.sqrt(sum(v * v for v in token[8 * h : 8 * h + 8])) for token in tokens) / len(tokens)
                    for h in (2 * g, 2 * g + 1)
                ]
                means.append(sum(heads))
            groups[i][g] = over_documents(means)
    torch.testing.assert_close(found.hidden_H.float(), torch.tensor(hidden), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.groups_LG.float(), torch.tensor(groups), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.intermediate_LF.float(), torch.tensor(inner), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "centred"), [("llama", False), ("gpt2", True)])
def test_gains_make_kept_channels_as_loud_as_they_were(name: str, centred: bool, tokenizer):
    teacher = make(name, tokenizer)
    kept = [0, 3, 4, 11, 30]
    found = norm_gains(teacher, TEXTS, torch.tensor(kept))
    norms = {n: m for n, m in teacher.network.named_modules() if n in found}
    assert len(norms) == 7

    def normalised(values: list[float]) -> list[float]:
        mean = sum(values) / len(values) if centred else 0.0
        root = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        return [(v - mean) / root for v in values]

    documents = [recorded(teacher, norms, text) for text in TEXTS]
    for norm, gain in found.items():
        tokens = [token for d in documents for token in d[norm][0]]
        pairs = []
        for token in tokens:
            whole, part = normalised(token), normalised([token[c] for c in kept])
            pairs += [(whole[c], p) for c, p in zip(kept, part, strict=True)]

        def error(g: float, pairs: list[tuple[float, float]] = pairs) -> float:
            return sum((w - g * p) ** 2 for w, p in pairs)

        assert error(gain) <= min(error(gain * 1.01), error(gain * 0.99))


def test_block_influence_by_loops(tokenizer):
    teacher = make("gpt2", tokenizer)
    angles: list[list[float]] = [[], [], []]
    for text in TEXTS:
        seen = recorded(teacher, {str(i): layer for i, layer in enumerate(teacher.layers)}, text)
        for i in range(3):
            for before, after in zip(*seen[str(i)], strict=True):
                dot = sum(a * b for a, b in zip(before, after, strict=True))
                angles[i].append(1 - dot / math.sqrt(sum(a * a for a in before) * sum(b * b for b in after)))
    expected = torch.tensor([sum(a) / len(a) for a in angles])
    torch.testing.assert_close(block_influence(teacher, TEXTS), expected, rtol=1e-4, atol=1e-5)


def test_a_layer_that_passes_on_what_it_reads_matters_not(tokenizer):
    teacher = make("llama", tokenizer)
    with torch.no_grad():
        teacher.layers[1].self_attn.o_proj.weight.zero_()
        teacher.layers[1].mlp.down_proj.weight.zero_()
    for measure in (block_influence, perplexity_change):
        found = measure(teacher, TEXTS)
        assert abs(float(found[1])) < 1e-5, measure
        assert min(abs(float(found[0])), abs(float(found[2]))) > 1e-3, measure


def test_perplexity_change_is_that_of_a_model_without_the_layer(tokenizer):
    teacher = make("neox", tokenizer)

    def loss(model: Model) -> float:
        nats, tokens = 0.0, 0
        with model.generating() as network, torch.no_grad():
            for text in TEXTS:
                ids = model.tokenizer(text)["input_ids"]
                probabilities = network(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
                for i, token in enumerate(ids[1:]):
                    nats -= math.log(float(probabilities[i, token]))
                    tokens += 1
        return nats / tokens

    from stillhouse.student.depth import with_layers

    expected = [loss(with_layers(teacher, [j for j in range(3) if j != i])) - loss(teacher) for i in range(3)]
    torch.testing.assert_close(perplexity_change(teacher, TEXTS), torch.tensor(expected), rtol=1e-3, atol=1e-3)


def test_the_sample_is_read_up_to_a_limit(tokenizer, monkeypatch):
    monkeypatch.setattr(importance, "LONGEST", 7)
    lengths = [ids.shape[1] for ids in importance.documents(make("llama", tokenizer), ["word " * 40] * 5, 17)]
    assert lengths == [7, 7, 3]


def test_hooks_and_mode_are_as_before(tokenizer):
    teacher = make("llama", tokenizer).train()
    widths(teacher, TEXTS)
    perplexity_change(teacher, TEXTS)
    assert teacher.network.training
    assert not any(module._forward_hooks for module in teacher.modules())


def test_nothing_to_measure_on(tokenizer):
    with pytest.raises(DataError, match="no text to measure importance on"):
        widths(make("llama", tokenizer), ["", "a"])


def test_an_encoder_has_no_perplexity(tokenizer):
    with pytest.raises(ModelError, match="by=block_influence"):
        perplexity_change(make("bert-masked", tokenizer), TEXTS)
