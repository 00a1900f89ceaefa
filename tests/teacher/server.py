"""A small server that speaks vLLM's /v1/completions, backed by a tiny model; and one for each way of speaking it wrongly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from stillhouse.models import Model


class Server:
    """What the server is to do, and what it saw.

    Args:
        model: who answers.
        mode: "right"; "shifted": a token's log-probabilities are read one place late, as llama-cpp-python reads them; "text":
            keyed by what tokens read; "logits": not normalised; "silent": no prompt log-probabilities, as most servers;
            "unsure": none of the token that it writes; "numbers", "halves": numbers and halves of characters instead of text; "foreign": its ids mean other strings; "noisy": what it says of a
            prompt has little to do with what it says when it writes.
        key: what it wants in the header, if anything.
        failures: answered with instead, first come first served: "ok" as it should be, a status, with a Retry-After if it is a pair; "drop" closes
            the connection, "cut" sends half an answer, "hang" waits a second.
    """

    def __init__(self, model: Model, mode: str = "right", key: str = "", failures: list[Any] | None = None) -> None:
        self.model, self.mode, self.key = model, mode, key
        self.failures = failures or []
        self.most = 64
        self.bodies: list[dict[str, Any]] = []
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.slow = 0.0
        self.url = ""

    def entries(self, logp_V: torch.Tensor, k: int, token: int | None = None) -> dict[str, Any]:
        chosen = logp_V.topk(min(k, len(logp_V))).indices.tolist()
        chosen += [token] if token is not None and token not in chosen else []
        reads = {i: self.model.tokenizer.decode([i]) for i in chosen}
        if self.mode == "foreign":
            reads = {i: self.model.tokenizer.decode([(i + 7) % len(logp_V)]) for i in chosen}
        name = (lambda i: reads[i]) if self.mode == "text" else str
        return {
            name(i): {"logprob": float(logp_V[i]), "rank": r + 1, "decoded_token": reads[i]}
            for r, i in enumerate(chosen)
        }

    @torch.no_grad()
    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        tokenizer = self.model.tokenizer
        if "messages" in body:
            text = tokenizer.apply_chat_template(body["messages"], add_generation_prompt=True, tokenize=False)
            ids = tokenizer(text).input_ids
        else:
            ids = tokenizer(body["prompt"]).input_ids if isinstance(body["prompt"], str) else body["prompt"]
        if body.get("prompt_logprobs", 0) > self.most:
            says = f"Requested prompt logprobs of {body['prompt_logprobs']}, which is greater than max allowed: {self.most}"
            return 400, {"error": {"message": says, "code": 400}}
        with self.lock, self.model.generating() as network:
            logp_PV = torch.log_softmax(network(input_ids=torch.tensor([ids])).logits[0].float(), -1)
            if self.mode == "logits":
                logp_PV = logp_PV + 3.0
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
            if body["max_tokens"] > 1:
                torch.manual_seed(body["seed"])
                out = network.generate(torch.tensor([ids]), max_new_tokens=body["max_tokens"], do_sample=True)[
                    0, len(ids) :
                ]
                text = {"numbers": 7, "halves": "\ud83d"}.get(self.mode) or tokenizer.decode(
                    out, skip_special_tokens=True
                )
                choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
                return 200, {"choices": [choice]}
        if (k := body.get("prompt_logprobs")) and self.mode != "silent":
            read = logp_PV.flip(-1) if self.mode == "noisy" else logp_PV
            late = self.mode == "shifted"
            choice["prompt_logprobs"] = [None] + [
                self.entries(read[i if late else i - 1], k, ids[i]) for i in range(1, len(ids))
            ]
        if (k := body.get("logprobs")) and self.mode != "unsure":
            best = self.entries(logp_PV[-1], k)
            if self.mode != "text":
                best = {f"token_id:{i}": e for i, e in best.items()}
            choice["logprobs"] = {"top_logprobs": [{name: e["logprob"] for name, e in best.items()}]}
        return 200, {"choices": [choice | {"text": "x"}], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Run it on a free port of this machine; its url is set."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.bodies.append(body | {"path": self.path})
                server.under_way += 1
                server.most_under_way = max(server.most_under_way, server.under_way)
                failure = server.failures.pop(0) if server.failures else None
            self.reply(body, failure)

        def leave(self) -> None:
            with server.lock:  # before the answer goes: the next request may come before this thread goes on
                server.under_way -= 1

        def reply(self, body: dict[str, Any], failure: Any) -> None:
            time.sleep(server.slow)
            if failure == "drop":
                self.leave()
                self.connection.close()
                return
            if failure == "hang":
                time.sleep(1.0)
            status, answer = 200, None
            headers: dict[str, str] = {}
            given = self.headers.get("Authorization", "")
            if server.key and given != f"Bearer {server.key}":
                status, answer = 401, {"error": {"message": f"Incorrect API key provided: {given}"}}
            elif isinstance(failure, tuple):
                status, headers = failure[0], {"Retry-After": str(failure[1])}
                answer = {"error": {"message": f"slow down, {given}"}}
            elif isinstance(failure, int):
                status, answer = failure, {"message": f"failed, {given}"}
                headers = {"Location": "http://127.0.0.1:9/"} if 300 <= failure < 400 else {}
            else:
                status, answer = server.answer(body)
            content = json.dumps(answer).encode()
            self.leave()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if failure == "cut" else content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
