"""Trunk and head of every family against transformers' own forward, document by document."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import transformers
import zoo
from shared import make_batch, make_llama, make_tokenizer

from stillhouse import models
from stillhouse.errors import ModelError, RunError
from stillhouse.models import Model
from stillhouse.types import Batch

SMALL = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "bos_token_id": None}
LLAMA_LIKE = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 128}
FAMILIES = {
    "llama": ("Llama", LLAMA_LIKE),
    "qwen2": ("Qwen2", LLAMA_LIKE),
    "qwen3": ("Qwen3", {**LLAMA_LIKE, "head_dim": 8}),
    "mistral": ("Mistral", {**LLAMA_LIKE, "sliding_window": 5}),
    "gemma2": ("Gemma2", {**LLAMA_LIKE, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3", {**LLAMA_LIKE, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8}),
    "gpt2": ("GPT2", {"vocab_size": 320, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("GPTNeoX", {**SMALL, "intermediate_size": 48, "max_position_embeddings": 128}),
    "granite": ("Granite", {**LLAMA_LIKE, "logits_scaling": 4.0}),
    "cohere": ("Cohere", {**LLAMA_LIKE, "logit_scale": 0.25}),
    "mamba2": ("Mamba2", {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 1, "chunk_size": 16}),
}  # fmt: skip


def family(name: str) -> Model:
    kind, options = FAMILIES[name]
    config = getattr(transformers, f"{kind}TextConfig" if name == "gemma3_text" else f"{kind}Config")(
        **options, pad_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in network.parameters():  # fresh weights of some families are so small that nothing could be seen
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return Model(network.eval(), make_tokenizer(), name)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("lengths", [[7, 12, 3], [8, 8]])
def test_documents_back_to_back_are_documents_alone(name: str, lengths: list[int]):
    model = family(name)
    batch = make_batch(lengths, 320, every=2)
    plain = copy.deepcopy(model.network)
    plain.set_attn_implementation("eager")
    expected = []
    with torch.no_grad():
        for start, stop in zip(batch.borders_D1, batch.borders_D1[1:], strict=False):
            logits = plain(input_ids=batch.input_ids_P[None, start:stop]).logits[0]
            expected += [logits[i - start] for i in range(start, stop) if i % 2 == 0]
        hidden_NH, _ = model(batch)
        found = model.head.logits(hidden_NH)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "mamba2"])
def test_no_document_sees_another(name: str):
    """Change the first document: the second's states stay the same to the bit."""
    model = family(name)
    batch = make_batch([9, 9, 6], 320)
    changed = batch.input_ids_P.clone()
    changed[:9] = (changed[:9] + 1) % 320
    with torch.no_grad():
        one, _ = model(batch)
        other, _ = model(Batch(**{**vars(batch), "input_ids_P": changed}))
    assert torch.equal(one[9:], other[9:])
    assert not torch.equal(one[:9], other[:9])


def test_gradient_checkpointing_respects_borders(llama: Model):
    batch = make_batch([7, 12, 3], 320)
    gradients = []
    for on in (False, True):
        llama.train()
        if on:
            llama.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        llama.zero_grad()
        llama(batch)[0].square().sum().backward()
        gradients.append([p.grad.clone() for p in llama.trunk.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_layers_are_those_after_each_block(llama: Model):
    batch = make_batch([5], 320)
    hidden_NH, layers = llama(batch, frozenset({"hidden"}))
    assert len(layers["hidden"]) == 2
    torch.testing.assert_close(layers["hidden"][-1][batch.select_N], hidden_NH)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_as_the_file_holds_them(tied: bool, tmp_path: Path):
    from safetensors import safe_open

    model = make_llama(make_tokenizer(), tied=tied)
    model.save(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert model.parameters_count == sum(file.get_tensor(k).numel() for k in file.keys())  # noqa: SIM118


def test_saved_and_loaded_is_the_same(llama: Model, tmp_path: Path):
    llama.save(tmp_path)
    again = models.load(str(tmp_path))
    batch = make_batch([5, 6], 320)
    llama.eval()
    assert torch.equal(llama(batch)[0], again.eval()(batch)[0])
    assert again.tokenizer.chat_template == llama.tokenizer.chat_template


@pytest.mark.skipif(os.name != "posix", reason="file sizes can be limited on POSIX systems only")
def test_weights_that_do_not_fit_are_one_message(llama: Model, tmp_path: Path):
    """A real limit of the system on the size of files stands for a full disk: writing fails half-way."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(RunError, match="tiny cannot be written there") as raised:
            llama.save(tmp_path / "student")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert "Make room" in str(raised.value)
    llama.save(tmp_path / "student")


def test_old_transformers_find_the_rope_base_too(llama: Model, tmp_path: Path):
    llama.save(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"]


def test_a_rope_base_that_would_be_read_wrongly_is_refused(llama: Model, tmp_path: Path):
    """Another version wrote the base where this one does not look: it would run, and talk nonsense."""
    llama.save(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    del written["rope_parameters"], written["rope_theta"]
    written["transformers_version"] = "9.0.0"
    written["rope_settings_of_tomorrow"] = {"full_attention": {"rope_theta": 500000.0}}
    path.write_text(json.dumps(written))
    with pytest.raises(ModelError, match=r"9\.0\.0.*500000"):
        models.load(str(tmp_path))


def test_a_classifier_is_the_same_face():
    """N sequences with C classes: the last token of each document carries the loss."""
    config = transformers.LlamaConfig(**LLAMA_LIKE, num_labels=5, pad_token_id=0)
    torch.manual_seed(0)
    network = transformers.LlamaForSequenceClassification(config).eval()
    model = Model(network, make_tokenizer(), "classifier")
    batch = make_batch([7, 4], 320)
    batch = Batch(**{**vars(batch), "select_N": torch.tensor([6, 10]), "labels_N": torch.tensor([1, 4]),
                     "weight_N": torch.ones(2), "document_N": torch.tensor([0, 1])})  # fmt: skip
    found = model.head.logits(model(batch)[0])
    assert model.outcomes == 5
    plain = copy.deepcopy(network)
    plain.set_attn_implementation("eager")
    expected = torch.cat([plain(input_ids=batch.input_ids_P[None, a:b]).logits for a, b in ((0, 7), (7, 11))])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# -- bad input ----------------------------------------------------------------------------------------------------------


def test_no_such_folder():
    with pytest.raises(ModelError, match="no such folder"):
        models.load("./nowhere/at/all")


def test_a_file_is_no_model(tmp_path: Path):
    (tmp_path / "model").write_text("x")
    with pytest.raises(ModelError, match="is a file"):
        models.load(str(tmp_path / "model"))


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        models.load(str(tmp_path))


def test_pickled_weights_are_refused(llama: Model, tmp_path: Path):
    llama.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model\.bin\)"):
        models.load(str(tmp_path))


def test_an_unknown_model_type(llama: Model, tmp_path: Path):
    llama.save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"llama"', '"never_heard_of"'))
    with pytest.raises(ModelError, match="never_heard_of"):
        models.load(str(tmp_path))


def test_weights_cut_in_half(llama: Model, tmp_path: Path):
    llama.save(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load(str(tmp_path))


def test_a_broken_configuration(tmp_path: Path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        models.load(str(tmp_path))


def test_logits_that_are_more_than_the_head_are_refused(llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    llama.save(tmp_path)
    monkeypatch.setattr(Model, "head", property(lambda self: models.Head(self.head_layer.weight * 1.5)))
    with pytest.raises(ModelError, match="more than its last layer"):
        models.load(str(tmp_path))


def test_the_hub_out_of_reach():
    with pytest.raises(ModelError, match="cannot be had from the hub"):
        models.load("nobody/nothing-of-that-name")


@pytest.mark.parametrize("name", zoo.ZOO)
def test_dropout_is_what_is_asked_for(name: str):
    """While it learns, of every family; a model that is asked outside of training never drops anything."""
    tokenizer = make_tokenizer()
    model = zoo.make(name, tokenizer)
    batch = make_batch([9, 5], len(tokenizer))

    def said(share: float, *, learning: bool) -> torch.Tensor:
        model.set_dropout(share)
        model.train(learning)
        with torch.no_grad():
            return model.read(batch)

    quiet = said(0.0, learning=False)
    torch.testing.assert_close(said(0.0, learning=True), quiet)
    torch.testing.assert_close(said(0.5, learning=False), quiet)
    assert (said(0.5, learning=True) - quiet).abs().max() > 0.01
