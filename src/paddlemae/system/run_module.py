"""Run a module as `python -m` does, without importing from the current folder: `run_module.py MODULE ...`

`python -m` and `python -c` look for modules in the current folder before anywhere else, so a file there would pass for
one of the standard library, and be executed. Where a script lies is looked at instead; this one takes that away too.
(`-P` does it from Python 3.11 on.)
"""

import sys


def module_command(name: str) -> list[str]:
    """Return the beginning of a command line that runs a module in a Python process of its own."""
    return [sys.executable, "-W", "ignore", __file__, name]


def clean_path() -> None:
    """Let this script import nothing from where it lies, and this package from where it is."""
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and sys.path[0] == here:
        del sys.path[0]
    sys.path.append(os.path.dirname(os.path.dirname(here)))


if __name__ == "__main__":
    clean_path()
    import runpy

    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
