"""The import of Paddle, with which a command starts its work."""


def load_paddle() -> None:
    """Import Paddle, before anything that a command imports loads NumPy.

    A signal must reach the main thread while Paddle is imported, and NumPy's threads would take it (see
    `engine.safe_import`). So commands call this before they import a task.

    Raises:
        ModuleNotFoundError: Paddle is not installed.
    """
    import paddlemae.engine.safe_import  # noqa: F401
