"""One model or file, and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Timed:
    """One model or file, and what was measured of it.

    Args:
        name: ``teacher``, ``student`` or the artefact's.
        runtime: what ran it.
        path: what was loaded.
        parameters: of a student and its files; 0 where they were not counted.
        loaded: seconds and bytes of importing and loading, in a fresh process.
        cold: seconds from the start of the import to the first token.
        prefill: seconds of reading the prompt, one a block: the time to the first token.
        steps: seconds of each further token, of all blocks.
        peak: the most memory its process held, bytes.
        parts: median seconds of a token by part, where the runtime can tell.

    """

    name: str
    runtime: str
    path: str
    parameters: int = 0
    loaded: dict[str, float] = field(default_factory=dict)
    cold: float = 0.0
    prefill: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    peak: int = 0
    parts: dict[str, float] | None = None
