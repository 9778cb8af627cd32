"""The embedded scenes with other classes."""

import numpy as np
import pytest

from paddlemae.data.sources import open_source


def test_classes_of_the_scenes_are_selected() -> None:
    whole = open_source("digit-scenes", "test", masks=True)
    chosen = open_source("digit-scenes::select=background,digit=*", "test", masks=True)
    assert chosen.classes == ("background", "digit") and len(chosen) == len(whole)
    np.testing.assert_array_equal(chosen.masks.read(3), np.minimum(whole.masks.read(3), 1))
    assert open_source("digit-scenes::select=background,digit=*", "train").targets is None


def test_other_options_are_refused() -> None:
    with pytest.raises(ValueError, match="select"):
        open_source("digit-scenes::ignore=0", "test", masks=True)
