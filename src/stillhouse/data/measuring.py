"""A process that measures documents beside the main one; see ``screening``."""

from __future__ import annotations

import sys
from pathlib import Path

from stillhouse.data.screening import measure_part

if __name__ == "__main__":
    folder, number, part, of = sys.argv[1:]
    sys.exit(measure_part(Path(folder), int(number), int(part), int(of)))
