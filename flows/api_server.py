"""A Prefect API that lives as long as the process that started it: ``python -m flows.api_server PORT``.

Prefect can start one itself, but then the client imports the whole server too, waits two minutes for a server that has
died, and leaves it running when it is itself killed. This one ends when its standard input does.
"""

from __future__ import annotations

import os
import sys
import threading


def main() -> None:
    """Serve on the loopback interface until the standard input ends."""
    import uvicorn

    threading.Thread(target=_end_with_parent, daemon=True).start()
    application = "prefect.server.api.server:create_app"
    uvicorn.run(application, factory=True, host="127.0.0.1", port=int(sys.argv[1]), log_level="error", lifespan="on")


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
