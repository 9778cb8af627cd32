"""Run `paddlemae` as one process of a training for Paddle's launcher, watched by the command that started it.

Its exit status goes into a file, and what is in order (finished, stopped, a user's mistake) is 0 to the launcher, which
would end the other processes in the middle of theirs otherwise.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

LOOK_EVERY_SECONDS = 0.2


def main() -> None:
    """Run the command line of this process's arguments."""
    from paddlemae.launch.launcher import FOLDER_VARIABLE, SUPERVISOR_VARIABLE
    from paddlemae.system.atomic import replace_text
    from paddlemae.system.locks import process_identity
    from paddlemae.system.signals import INTERRUPTED_STATUS, REQUEUE_STATUS
    from paddlemae.train.stopping import MISTAKE_STATUS

    # until it has met the others, a signal ends it as the system does it, wherever it is: the launcher then ends the
    # others, which may wait for it, and the command that watches has the status and the line
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    folder = Path(os.environ[FOLDER_VARIABLE])
    rank = os.environ["PADDLE_LOCAL_RANK"]
    replace_text(folder / f"{rank}.process", json.dumps(process_identity(os.getpid())))
    supervisor = json.loads(os.environ[SUPERVISOR_VARIABLE])
    threading.Thread(target=_die_with, args=(supervisor, folder), daemon=True).start()
    from paddlemae.cli.app import main as command_line

    status = 1
    try:
        command_line()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        replace_text(folder / f"{rank}.status", str(status))
    sys.exit(0 if status in (MISTAKE_STATUS, REQUEUE_STATUS, INTERRUPTED_STATUS) else status)


def _die_with(supervisor: list[Any], folder: Path) -> None:
    """Leave nothing behind a command that was killed, or that gave this launch up before it knew of this process.

    The next start must find nobody at work in the run folder.
    """
    from paddlemae.system.locks import process_identity

    if hasattr(signal, "pthread_sigmask"):  # Windows can't
        # signals are the main thread's, which lets SIGTERM wait while Paddle, that would answer it, is imported
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while process_identity(supervisor[0]) == supervisor and folder.exists():
        time.sleep(LOOK_EVERY_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    here = Path(__file__).parent  # a script's neighbours would pass for modules of their own
    sys.path[:] = [*(place for place in sys.path if place != str(here)), str(here.parents[1])]
    main()
