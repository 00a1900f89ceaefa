"""``python -m stillhouse``, which is also how torchrun starts it."""

import os

from stillhouse.cli import main

try:
    main()
except SystemExit as end:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        raise
    from stillhouse.trainer.distributed import leave

    leave(end.code if isinstance(end.code, int) else int(end.code is not None))
