"""The command `paddlemae`, and `python -m paddlemae`: what has to be done before anything else is imported."""

import sys


def main() -> None:
    """Run the command line; a signal ends it with its status and a line, from here on to the end of the process."""
    from paddlemae import signals

    signals.take_over()
    status: object = 0
    try:
        from paddlemae.cli import main as command_line

        signals.set_idle(False)
        command_line()
    except SystemExit as end:
        status = end.code or 0
        signals.keep_status(status if isinstance(status, int) else 1)
        raise
    except KeyboardInterrupt:  # another one, while the first was answered
        status = signals.INTERRUPTED_STATUS
        signals.keep_status(status)
        sys.exit(status)
    signals.keep_status(0)


def forget_current_folder() -> None:
    """Move the current folder, where `python -m` looks first, behind everything else, or out of the way.

    Files that lie there must not pass for modules of the standard library. It stays, as the last place, if this package
    is imported from it.
    """
    import os

    try:
        folder = os.getcwd()
    except OSError:  # it was deleted, and Python had none to add
        return
    if sys.path and sys.path[0] in ("", folder) and not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
        if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == folder:
            sys.path.append(folder)


if __name__ == "__main__":
    forget_current_folder()
    main()
