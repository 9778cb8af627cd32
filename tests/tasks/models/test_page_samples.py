"""The images that a page shows where nobody names any: some of the data that its model was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paddlemae.tasks.models.page_samples import own_views
from paddlemae.tasks.models.read_model import read_checkpoint


@pytest.mark.parametrize("name", ["digits", "digits (train)", "100 of 3500 of digits (fit)"])
def test_a_part_of_embedded_images_leads_to_them(pretrained: Path, name: str) -> None:
    description = replace(read_checkpoint(pretrained).description, provenance={"data": name})
    found = own_views(description, 3)
    assert found is not None and len(found[0]) == 3 and found[1].shape == (3, 3, 8, 8)


def test_a_part_of_a_folder_leads_to_it(pretrained: Path, colours: Path) -> None:
    description = read_checkpoint(pretrained).description
    for name in (f"{colours}", f"{colours}/train", f"6 of 24 of {colours}/train"):
        found = own_views(replace(description, provenance={"data": name}), 4)
        assert found is not None and len(found[0]) == 4


def test_data_that_is_gone_leaves_no_samples(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = replace(read_checkpoint(pretrained).description, provenance={"data": "gone/photos"})
    assert own_views(description, 3) is None
    assert "name others" in capsys.readouterr().err
