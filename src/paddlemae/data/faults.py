"""What ends a run because of its data: nothing is wrong with the settings, and the run can go on once it is mended."""


class DataFault(ValueError):
    """Data that can't be had any more; its text says what to mend."""
