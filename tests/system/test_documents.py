"""YAML of any depth: what is too deep is refused as soon as it is."""

import pytest

from paddlemae.system.documents import MAX_YAML_DEPTH, parse_yaml


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_as_many_levels_as_allowed_are_read() -> None:
    value, levels = parse_yaml(nested(MAX_YAML_DEPTH)), 0
    while isinstance(value, list):
        value, levels = (value[0] if value else None), levels + 1
    assert levels == MAX_YAML_DEPTH


@pytest.mark.parametrize(
    "text",
    [nested(MAX_YAML_DEPTH + 1), "[" * 100_000, "- " * 100_000, "{a: " * 40 + "1" + "}" * 40],
    ids=["one more", "flow", "block", "maps"],
)
def test_deeper_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="deeper"):
        parse_yaml(text)


def test_aliases_count_as_written_out() -> None:
    inner = nested(MAX_YAML_DEPTH - 2)
    assert parse_yaml(f"a: &a {inner}\nb: *a")["b"]
    with pytest.raises(ValueError, match="deeper"):
        parse_yaml(f"a: &a {inner}\nb: [[*a]]")
