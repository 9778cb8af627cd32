"""Run the command `paddlemae`, or `python -m paddlemae`; set up signals and limits before anything else is imported."""

import sys


def main() -> None:
    """Run the command line; a signal ends it with its status and a line, from here on to the end of the process."""
    try:
        from paddlemae.system import signals

        signals.take_over()
        from paddlemae.cli.app import main as command_line

        signals.set_idle(False)
        command_line()
        signals.keep_status(0)
    except SystemExit as end:
        signals.keep_status(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    except KeyboardInterrupt:  # before it was taken over, or another one while the first was answered
        sys.exit(130)


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
