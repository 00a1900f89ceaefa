"""A teacher behind a server: the right numbers, patience, budgets, and no trust that was not earned."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import torch
from server import Server, serving
from shared import make_batch, make_llama, make_tokenizer

from stillhouse.data.sources.written import written
from stillhouse.errors import ModelError, RecipeError, RunError, StillhouseError
from stillhouse.models import Model
from stillhouse.objective.losses.forward_kl import forward_kl
from stillhouse.teacher import client as http
from stillhouse.teacher.sources.served import Served, rest, served
from stillhouse.types import Output

K = 5
Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def model() -> Model:
    return make_llama(make_tokenizer())


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("like")
    model.save(path)
    return path


@pytest.fixture
def serve(model: Model) -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(mode: str = "right", **options: Any) -> Server:
            return stack.enter_context(serving(Server(model, mode, **options)))

        yield start


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_FIRST_WAIT", 0.01)


@pytest.fixture
def ask(folder: Path, tmp_path: Path) -> Callable[..., Served]:
    def make(server: Server, **options: Any) -> Served:
        options = {"k": K, "keep": str(tmp_path / "kept"), "timeout": 20.0} | options
        teacher = served(url=server.url, model="tiny", like=str(folder), **options)
        assert isinstance(teacher, Served)
        return teacher

    return make


def batch_of(lengths: list[int], every: int = 1, seed: int = 0):
    return make_batch(lengths, 300, every=every, seed=seed)


@torch.no_grad()
def truth(model: Model, batch) -> list[torch.Tensor]:
    """Log-probabilities over the vocabulary at each position, one document and one position at a time."""
    rows = []
    for p in batch.select_N.tolist():
        start = max(b for b in batch.borders_D1 if b <= p)
        with model.generating() as network:
            logits = network(input_ids=batch.input_ids_P[start : p + 1][None]).logits[0, -1]
        rows.append(torch.log_softmax(logits.double(), -1))
    return rows


@pytest.mark.parametrize("every", [1, 3])
def test_its_values_are_the_models_own(model: Model, serve: Serve, ask, every: int):
    teacher = ask(serve())
    batch = batch_of([7, 1, 12, 4], every)
    signal = teacher.signal(batch)
    assert signal.form == "topk" and signal.ids_NK.dtype == torch.int64
    assert signal.ids_NK.shape == signal.logp_NK.shape == (len(batch.select_N), K + 1)
    for n, row_V in enumerate(truth(model, batch)):
        ids = [i for i in signal.ids_NK[n].tolist() if i >= 0]
        assert len(ids) == len(set(ids)) >= K
        assert set(row_V.topk(K).indices.tolist()) <= set(ids)
        for i, value in zip(ids, signal.logp_NK[n].tolist(), strict=False):
            assert value == pytest.approx(float(row_V[i]), abs=1e-5)
        left = 1.0 - sum(math.exp(float(row_V[i])) for i in ids)
        assert math.exp(float(signal.rest_N[n])) == pytest.approx(left, abs=1e-5)
        assert (signal.logp_NK[n][len(ids) :] == -math.inf).all()


def test_a_document_without_loss_is_not_asked_for_and_what_follows_the_last_loss_is_not_sent(serve: Serve, ask):
    server = serve()
    teacher = ask(server)
    server.bodies.clear()
    batch = batch_of([6, 5, 6])
    keep = [1, 2, 12]  # in the first and the last document
    batch = batch.rows(0, 17)
    part = type(batch)(**{**vars(batch), **{
        name: getattr(batch, name)[torch.tensor(keep)] for name in ("select_N", "labels_N", "weight_N", "document_N")
    }})  # fmt: skip
    teacher.signal(part)
    tokens = batch.input_ids_P.tolist()
    assert sorted(body["prompt"] for body in server.bodies) == sorted([tokens[0:4], tokens[11:14]])
    assert all(b["max_tokens"] == 1 and b["prompt_logprobs"] == K and b["temperature"] == 1.0 for b in server.bodies)


def test_the_label_after_a_piece_is_named(model: Model, serve: Serve, ask):
    """The last label is not among the inputs, yet the signal tells its probability."""
    batch = batch_of([9])
    signal = ask(serve()).signal(batch)
    label = int(batch.labels_N[-1])
    at = signal.ids_NK[-1].tolist().index(label)
    assert float(signal.logp_NK[-1, at]) == pytest.approx(float(truth(model, batch)[-1][label]), abs=1e-5)


def test_positions_in_any_order(serve: Serve, ask):
    teacher, batch = ask(serve()), batch_of([5, 6])
    order = torch.tensor([7, 2, 10, 0, 4])
    mixed = type(batch)(**{**vars(batch), **{
        name: getattr(batch, name)[order] for name in ("select_N", "labels_N", "weight_N", "document_N")
    }})  # fmt: skip
    whole, some = teacher.signal(batch), teacher.signal(mixed)
    for row, n in enumerate(order.tolist()):
        named = dict(zip(whole.ids_NK[n].tolist(), whole.logp_NK[n].tolist(), strict=True))
        found = dict(zip(some.ids_NK[row].tolist(), some.logp_NK[row].tolist(), strict=True))
        top = sorted(found, key=lambda i: -found[i])[:K]
        assert all(found[i] == pytest.approx(named[i], abs=1e-5) for i in top)


def test_all_outcomes_leave_nothing_over_and_kl_equals_the_dense_one(model: Model, serve: Serve, ask):
    server = serve()
    server.most = 1000
    batch = batch_of([6, 4])
    signal = ask(server, k=model.outcomes).signal(batch)
    assert (signal.rest_N == -math.inf).all()
    student = make_llama(model.tokenizer, seed=1)
    with torch.no_grad():
        logits_NV = student.head.logits(student(batch)[0])
    found = forward_kl(Output(logits_NV), signal, batch)
    for n, p_V in enumerate(truth(model, batch)):
        q_V = torch.log_softmax(logits_NV[n].double(), -1)
        slow = sum(math.exp(p) * (p - q) for p, q in zip(p_V.tolist(), q_V.tolist(), strict=True))
        assert float(found[n]) == pytest.approx(slow, abs=1e-4)


def test_the_rest_is_never_nothing_where_there_are_others():
    import numpy as np

    logp = np.log(np.array([[0.5, 0.5], [0.5, 0.25]], dtype=np.float32))
    ids = np.array([[3, 4], [3, 4]], dtype=np.int32)
    assert rest(logp, ids, 10).tolist() == pytest.approx([math.log(2.0**-23), math.log(0.25)])
    assert rest(logp[:1], ids[:1], 2).tolist() == [-math.inf]


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        ("shifted", "shifted by one"),
        ("text", "by text"),
        ("logits", "add up to"),
        ("silent", "gives no prompt log-probabilities"),
        ("unsure", "cannot be checked"),
        ("foreign", "another vocabulary"),
        ("noisy", "contradicts itself"),
    ],
)
def test_an_unfit_server_is_refused_before_any_work(serve: Serve, ask, tmp_path: Path, mode: str, says: str):
    server = serve(mode)
    with pytest.raises(ModelError, match=says):
        ask(server)
    assert len(server.bodies) == 4
    assert not list(tmp_path.glob("kept/*"))


def test_a_fit_server_is_probed_once(serve: Serve, ask):
    server = serve()
    teacher = ask(server)
    assert len(server.bodies) == 4
    teacher.signal(batch_of([4, 4]))
    assert len(server.bodies) == 6


def test_answers_are_kept_between_processes_and_need_no_server(serve: Serve, ask):
    server, batch = serve(), batch_of([8, 3])
    first = ask(server).signal(batch)
    asked = len(server.bodies)
    again = ask(server).signal(batch)
    assert len(server.bodies) == asked
    assert torch.equal(first.ids_NK, again.ids_NK) and torch.equal(first.logp_NK, again.logp_NK)
    assert torch.equal(first.rest_N, again.rest_N)


def test_kept_answers_of_another_model_under_the_same_name_are_refused(serve: Serve, ask, model: Model):
    server = serve()
    ask(server).signal(batch_of([4]))
    server.model = make_llama(model.tokenizer, seed=5)
    teacher = ask(server)  # what is kept needs no server
    with pytest.raises(ModelError, match="another model's"):
        teacher.signal(batch_of([5], seed=1))


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_answer_is_asked_for_again(serve: Serve, ask, tmp_path: Path, damage: str):
    server, batch = serve(), batch_of([8])
    first = ask(server).signal(batch)
    (file,) = (tmp_path / "kept").glob("*.jsonl")
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[:-20]
    else:
        place = content.rindex(b'"logp":"') + 20
        content[place] = ord("A") if content[place] != ord("A") else ord("B")
    file.write_bytes(content)
    again = ask(server).signal(batch)
    assert torch.equal(first.logp_NK, again.logp_NK)
    assert len(server.bodies) == 4 + 1 + 4 + 1
    third = ask(server).signal(batch)
    assert torch.equal(first.logp_NK, third.logp_NK) and len(server.bodies) == 10


@pytest.mark.parametrize("failure", [429, 500, 503, "drop", "cut"])
def test_a_failure_that_passes_is_survived(serve: Serve, ask, failure: Any):
    server = serve()
    teacher = ask(server)
    server.failures += [failure] * 3
    signal = teacher.signal(batch_of([4, 5, 3]))
    assert signal.ids_NK.shape[0] == 12
    assert len(server.bodies) == 4 + 3 + 3


def test_a_server_that_hangs_is_asked_again(serve: Serve, ask):
    server = serve()
    teacher = ask(server, timeout=0.3)
    server.failures += ["hang"]
    assert teacher.signal(batch_of([4])).ids_NK.shape[0] == 4
    assert len(server.bodies) == 6


def test_what_the_server_asks_to_wait_is_waited_by_all(serve: Serve, ask):
    server = serve()
    teacher = ask(server, concurrency=1)
    server.failures += [(429, 0.4)]
    began = time.monotonic()
    teacher.signal(batch_of([4]))
    assert time.monotonic() - began >= 0.4
    server.failures += [(503, formatdate(time.time() + 2, usegmt=True))]
    began = time.monotonic()
    teacher.signal(batch_of([5]))
    assert 0.9 <= time.monotonic() - began < 10


def test_a_server_that_asks_for_too_much_patience_is_not_waited_for(serve: Serve, ask):
    server = serve()
    teacher = ask(server)
    server.failures += [(429, 86400)]
    with pytest.raises(RunError, match="asks to wait 86,400 seconds"):
        teacher.signal(batch_of([4]))


def test_retries_end_and_what_was_answered_is_kept(serve: Serve, ask):
    server, batch = serve(), batch_of([4, 5, 6, 3])
    teacher = ask(server, concurrency=1, retries=2)
    asked = len(server.bodies)
    server.failures += [None, None, 500, 500, 500]
    with pytest.raises(RunError, match=r"status 500.*3 times.*3 answers are kept"):  # two, and the probe's
        teacher.signal(batch)
    assert len(server.bodies) == asked + 5
    ask(server).signal(batch)
    assert len(server.bodies) == asked + 5 + 4 + 2  # the probe again, and the two that were missing


def test_a_refusal_is_not_tried_again(serve: Serve, ask):
    server = serve()
    server.most = 3
    with pytest.raises(RunError, match=r"greater than max allowed: 3") as caught:
        ask(server, concurrency=1)
    assert "--max-logprobs" in str(caught.value)
    assert len(server.bodies) == 1


def test_a_redirect_is_not_followed(serve: Serve, ask):
    server = serve()
    teacher = ask(server)
    server.failures += [307]
    with pytest.raises(RunError, match="redirect"):
        teacher.signal(batch_of([3]))


class Nowhere:
    url = "http://127.0.0.1:9/v1"


def test_a_server_that_is_not_there(ask):
    with pytest.raises(RunError, match=r"does not answer: ConnectionRefusedError.*2 times"):
        ask(Nowhere, retries=1)


def test_the_budget_of_requests(serve: Serve, ask):
    server = serve()
    teacher = ask(server, max_requests=6, concurrency=1)
    with pytest.raises(RunError, match=r"budget of 6 requests is spent: 6 so far.*3 answers are kept") as caught:
        teacher.signal(batch_of([4, 5, 6, 3]))
    assert len(server.bodies) == 6
    assert caught.value.problems[0].where == "teacher.max_requests"


def test_the_budget_of_tokens_is_never_exceeded(serve: Serve, ask):
    server = serve()
    teacher = ask(server, concurrency=3)
    teacher.client.max_tokens = teacher.client.tokens + 20
    before = len(server.bodies)
    with pytest.raises(RunError, match="tokens is spent"):
        teacher.signal(batch_of([8, 8, 8]))
    sent = server.bodies[before:]
    assert len(sent) == 2 and sum(len(body["prompt"]) + 1 for body in sent) == 20


def test_failed_tries_cost_no_tokens(serve: Serve, ask):
    server = serve()
    teacher = ask(server)
    before = teacher.client.tokens
    server.failures += [503, 429]
    teacher.signal(batch_of([8]))
    assert teacher.client.tokens - before == 10


def test_the_rate_is_kept(serve: Serve, ask):
    server = serve()
    teacher = ask(server, concurrency=4, requests_per_minute=600)
    began = time.monotonic()
    teacher.signal(batch_of([4, 5, 6, 3, 4]))
    assert time.monotonic() - began >= 4 * 0.1  # what lies between five requests
    assert len(server.bodies) == 9


def test_so_many_at_a_time(serve: Serve, ask):
    server = serve()
    server.slow = 0.1
    teacher = ask(server, concurrency=3)
    server.most_under_way = 0
    teacher.signal(batch_of([4] * 9))
    assert server.most_under_way == 3


KEY = "sk-test-1234567890"


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(
    serve: Serve, ask, monkeypatch, tmp_path: Path, caplog
):
    server = serve(key=KEY)
    monkeypatch.setenv("MY_KEY", KEY)
    teacher = ask(server, key_env="MY_KEY", retries=1)
    batch = batch_of([4])
    teacher.signal(batch)
    seen = [repr(teacher), repr(teacher.client), repr(vars(teacher.client)), caplog.text]
    for failures in ([500, 500], [418], [307], ["drop", "drop"], [(429, 9999)]):
        server.failures[:] = failures
        with pytest.raises(StillhouseError) as caught:
            teacher.signal(batch_of([5], seed=2))
        seen += [str(caught.value), "".join(traceback.format_exception(caught.value))]
    server.failures.clear()
    server.key = "another"
    with pytest.raises(RunError, match="401") as caught:
        teacher.signal(batch_of([6]))
    seen += [str(caught.value), "".join(traceback.format_exception(caught.value))]
    assert "Incorrect API key" in seen[-1] and "•••" in seen[-1]
    seen += [file.read_text() for file in (tmp_path / "kept").iterdir()]
    assert not any(KEY in text for text in seen)


@pytest.mark.parametrize("value", ["", "sk-secret\nX-Other: 1", "sk-sécret"])
def test_a_key_that_cannot_be_sent(serve: Serve, ask, monkeypatch, value: str):
    monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(RunError, match="MY_KEY") as caught:
        ask(serve(), key_env="MY_KEY")
    assert "secret" not in "".join(traceback.format_exception(caught.value)) and "sécret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"key_env": KEY}, "not the name of an environment variable"),
        ({"k": 0}, "teacher.k"),
        ({"concurrency": 0}, "teacher.concurrency"),
        ({"requests_per_minute": 0.0}, "teacher.requests_per_minute"),
        ({"max_tokens": 0}, "teacher.max_tokens"),
        ({"timeout": 0.0}, "teacher.timeout"),
        ({"retries": -1}, "teacher.retries"),
        ({"url": "localhost:8000"}, "no address"),
        ({"url": "ftp://here"}, "no address"),
        ({"url": f"http://me:{KEY}@here/v1"}, "carries a name or password"),
    ],
)
def test_options_that_cannot_be(folder: Path, tmp_path: Path, options: dict[str, Any], says: str):
    good = {"url": "http://127.0.0.1:9", "model": "tiny", "like": str(folder), "keep": str(tmp_path), "empty": True}
    with pytest.raises(RecipeError, match=says) as caught:
        served(**(good | options))
    assert KEY not in str(caught.value)


def test_the_address_with_and_without_v1(folder: Path, tmp_path: Path):
    for url in ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"):
        made = served(url=url, model="m", like=str(folder), keep=str(tmp_path), empty=True)
        assert made.client.url == "http://h:1/v1"
        assert made.name == "m" and made.model.head_layer.weight.is_meta


def test_it_shows_nothing_of_its_inner_life(serve: Serve, ask):
    teacher = ask(serve())
    assert teacher.forms == {"topk"} and not teacher.shows
    with pytest.raises(ModelError, match="hidden"):
        teacher.signal(batch_of([4]), frozenset({"hidden"}))


@pytest.mark.parametrize("chat", [True, False])
def test_it_writes_text_that_a_student_can_learn_from(serve: Serve, ask, tmp_path: Path, chat: bool):
    server = serve("silent")  # no log-probabilities are needed
    teacher = ask(server, text_only=True, chat=chat)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("still water\nthe quick fox\n")
    records = list(written(teacher, prompts=str(prompts), samples=2, new_tokens=6))
    assert [r["prompt"] for r in records] == ["still water"] * 2 + ["the quick fox"] * 2
    assert all(r["messages"][1]["content"] == r["response"] for r in records)
    assert records[0]["response"] != records[1]["response"]
    assert {b["path"] for b in server.bodies} == {"/v1/chat/completions" if chat else "/v1/completions"}
    assert len({b["seed"] for b in server.bodies}) == 4
    asked = len(server.bodies)
    assert (
        list(written(ask(server, text_only=True, chat=chat), prompts=str(prompts), samples=2, new_tokens=6)) == records
    )
    assert len(server.bodies) == asked
    with pytest.raises(ModelError, match="text_only"):
        teacher.signal(batch_of([4]))


def lines(folder: Path, count: int = 12) -> str:
    path = folder / "prompts.txt"
    path.write_text("\n".join(f"cask {n}" for n in range(count)))
    return str(path)


def test_a_server_that_dies_half_way_is_gone_on_with(serve: Serve, ask, tmp_path: Path):
    options = {"prompts": lines(tmp_path), "new_tokens": 5, "together": 4}
    whole = list(
        written(
            ask(serve("silent"), text_only=True, keep=str(tmp_path / "other")), path=str(tmp_path / "whole"), **options
        )
    )
    server = serve("silent")
    teacher = ask(server, text_only=True, retries=1, concurrency=1)
    source = written(teacher, path=str(tmp_path / "part"), **options)
    first = [next(source) for _ in range(4)]
    with server.lock:
        server.failures = ["ok"] * 2 + [503] * 50  # it answers half of the next batch
    with pytest.raises(RunError, match=r"does not answer: status 503.*6 answers are kept") as caught:
        list(source)
    assert "the same command goes on" in str(caught.value)
    assert (tmp_path / "part" / "rows.jsonl").read_text().count("\n") == 4  # partial results
    server.failures = []
    before = len(server.bodies)
    again = list(written(ask(server, text_only=True), path=str(tmp_path / "part"), **options))
    assert len(server.bodies) - before == 6  # nothing is asked for twice

    def plain(rows: list[dict]) -> list[tuple[str, int]]:  # the tiny server's own chance is not the seed's alone
        return [(r["prompt"], r["provenance"]["seed"]) for r in rows]

    assert plain(again) == plain(whole) and again[:4] == first


@pytest.mark.parametrize(("mode", "came"), [("numbers", "7"), ("halves", "ud83d")])
@pytest.mark.parametrize("chat", [True, False])
def test_garbage_is_no_text(serve: Serve, ask, tmp_path: Path, mode: str, came: str, chat: bool):
    server = serve("silent")
    options = {"prompts": lines(tmp_path, 4), "new_tokens": 5, "together": 2, "path": str(tmp_path / "rows")}
    teacher = ask(server, text_only=True, chat=chat)
    source = written(teacher, **options)
    next(source), next(source)
    server.mode = mode
    with pytest.raises(RunError, match=f"answered with .*{came}.* where text should be. 2 answers are kept"):
        list(source)
    server.mode = "silent"
    assert len(list(written(ask(server, text_only=True, chat=chat), **options))) == 4


def test_likelihood_wants_a_server_that_tells_it(serve: Serve, ask, tmp_path: Path):
    with pytest.raises(StillhouseError, match="does not tell how likely"):
        list(written(ask(serve("silent"), text_only=True), prompts=lines(tmp_path), new_tokens=5, select="likelihood"))


def test_what_has_a_model_writes_with_it(model: Model, tmp_path: Path):
    from stillhouse.teacher import Teacher

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("oak\n")
    assert list(written(Teacher(model), prompts=str(prompts), new_tokens=4)) == list(
        written(model, prompts=str(prompts), new_tokens=4)
    )
