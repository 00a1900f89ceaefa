"""What was exported stands on the page and in the card: measured, not tested, refused."""

from __future__ import annotations

import json
from pathlib import Path

from stillhouse.report import model_card, report

EXPORTS = [
    {"name": "gguf-q8_0", "path": "exports/gguf-q8_0/a.gguf", "bytes": 42_500_000, "runtime": "llama_cpp", "load_seconds": 0.5,
     "peak_bytes": 90e6, "difference": {"texts": 16, "positions": 900, "loss": 0.0123, "low": -0.002, "high": 0.03, "kl": 0.01,
     "agreement": 0.97, "margin": 0.1}},
    {"name": "onnx-int4", "path": "exports/onnx-int4", "bytes": 10_000_000, "untested": "onnxruntime is not installed"},
    {"name": "gguf-q4_0", "refused": "loses 0.8 nats <b>a token</b>"},
]  # fmt: skip


def test_they_are_in_both(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "exports.json").write_text(json.dumps(EXPORTS), encoding="utf-8")
    page, card = report(tmp_path).read_text(encoding="utf-8"), model_card(tmp_path)
    for text in (page, card):
        assert "exports/gguf-q8_0/a.gguf" in text.replace("\\", "")
        assert "42.5 MB" in text.replace("\\", "") and "97.0" in text.replace("\\", "")
        assert "0.0123 [−0.0020, 0.0300]" in text.replace("\\", "")
        assert "not tested: onnxruntime is not installed" in text.replace("\\", "")
        assert "<b>a token" not in text
    assert "read 16 held-out texts (900 positions)" in page


def test_nothing_is_said_where_nothing_was_exported(tmp_path: Path) -> None:
    assert "exported to" not in report(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "exports.json").write_text('{"no": "list"}', encoding="utf-8")
    report(tmp_path)
