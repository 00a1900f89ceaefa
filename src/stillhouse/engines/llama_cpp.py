"""llama.cpp's server, as llama-cpp-python brings it."""

from __future__ import annotations

from stillhouse.serve import Order, engine_of


@engine_of(
    form="gguf",
    packages=("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings"),
    install="pip install 'stillhouse[serve]'   # builds llama.cpp, about eight minutes of one core",
)
def llama_cpp(order: Order) -> list[str]:
    """GGUF files by llama.cpp, on a CPU; the chat template is the file's own."""
    command = ["-m", "llama_cpp.server", "--model", str(order.path), "--model_alias", order.name]
    command += ["--host", order.host, "--port", str(order.port), "--n_ctx", str(order.context)]
    return command + ([] if order.threads is None else ["--n_threads", str(order.threads)])
