"""The report's page: everything inside, everything escaped, nothing missing in silence."""

from __future__ import annotations

import copy
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlemae.report.exhibit_views import PARTS
from paddlemae.report.formatting import duration, number
from paddlemae.report.missing import OF_SCENES
from paddlemae.report.page import ASSETS, MOST_POINTS, pick_places, render
from paddlemae.system.display_names import display_name
from tests.support.report_example import CLASSES, NASTY, Seen, bare_run, cell, example, report_of, whole_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[Path]]:
    return example(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(made) -> str:
    return render(*made)


def test_the_page_needs_no_other_file(page: str) -> None:
    seen = Seen(page)
    for tag, attributes in seen.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/", "data:,")), (tag, name, value)
    assert "@import" not in page and not re.search(r"url\((?!\"data:image/)", page)
    assert "default-src 'none'" in page


def test_its_own_part_is_small() -> None:
    empty = {**bare_run(), "missing": []}
    assert len(render(report_of([empty]), [Path()])) < 150_000


def test_every_part_of_a_whole_run_is_there(page: str) -> None:
    seen = Seen(page)
    ids = {attributes.get("id") for _, attributes in seen.tags}
    for part in (*PARTS, "setup", "results", "curves"):
        assert (f"run-0-{part}" in ids) == (part not in OF_SCENES)
    for words in (
        "62.0% ± 2.0%",
        "+12.0 points over 50.0% ± 0.0% from scratch",
        "top-5 accuracy 72.0%",
        "2 min 21 s",
        "50,000",
    ):
        assert words in seen.text, words
    for command in ("paddlemae knn runs/a --random", "paddlemae pretrain 'cifar 10'"):
        assert command in seen.text


def test_links_lead_somewhere_and_ids_are_unique(page: str) -> None:
    tags = Seen(page).tags
    ids = [attributes["id"] for _, attributes in tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in tags if tag == "a" and attributes["href"]}
    assert links <= set(ids)


def test_headings_are_in_order_and_pictures_have_words(page: str) -> None:
    tags = Seen(page).tags
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("aria-label") for _, attributes in tags if attributes.get("role") == "img")
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")


def test_missing_parts_are_named_with_the_command_that_makes_them(page: str) -> None:
    text = Seen(page).text
    assert "2-D map of the features : not run. To make it: paddlemae knn runs/bare --data cifar10" in text
    assert "Attention maps of the last block : not run." in text
    assert "Linear probe : not run. To make it: paddlemae probe --init runs/whole" in text
    assert "Reconstructions across training : there is nothing to show." in text
    assert "No result was measured yet." in text


def test_runs_are_compared(page: str) -> None:
    text = Seen(page).text
    assert "training.batch_size 128 not set" in text
    assert "untrained 31.0% 30.0% −1.0" in text
    assert "The environments are the same." in text
    assert [run["label"] for run in Seen(page).data["runs"]] == ["whole", "bare"]


def test_problems_are_shown(page: str) -> None:
    assert "1 problem found" in Seen(page).text and "whole : metrics.jsonl: line 17 is damaged" in Seen(page).text


def test_one_run_alone_is_not_compared(made) -> None:
    report, folders = made
    text = Seen(render(report_of(report["runs"][:1]), folders[:1])).text
    assert "Compared" not in text and "| kNN | 42.0% |" in text


def test_runs_of_one_name_are_distinguished_by_their_folders(made) -> None:
    report, folders = made
    runs = [{**run, "name": "same"} for run in report["runs"]]
    assert [run["label"] for run in Seen(render(report_of(runs), folders)).data["runs"]] == ["runs/whole", "runs/bare"]


NASTIES = [
    NASTY,
    '"><b onmouseover=alert(1)>',
    "' onload='x",
    "\u2028]]>",
    "{{ 7 * 7 }}",
    "\ud800",
    "--></style>",
    "\x1b]0;pwn\x07\u202e",
]


@pytest.mark.parametrize("nasty", NASTIES, ids=range(len(NASTIES)))
def test_strangers_words_stay_words(made, nasty: str) -> None:
    """Put in the place of every string of the report that is not one of our own names."""
    report, folders = copy.deepcopy(made)
    keep = {"file", "task", "part", "start"}

    def spoil(value, key=""):
        if isinstance(value, dict):
            return {name: spoil(one, name) for name, one in value.items()}
        if isinstance(value, list):
            return [spoil(one, key) for one in value]
        return nasty if isinstance(value, str) and key not in keep else value

    spoilt = spoil(report)
    for run in spoilt["runs"]:
        run["setup"]["recipe"][nasty] = run["setup"]["environment"][nasty] = nasty
        run["curves"][nasty] = run["curves"]["loss"]
    page = render(spoilt, folders)
    page.encode()
    before, after = Seen(render(report, folders)), Seen(page)
    assert {tag for tag, _ in after.tags} <= {tag for tag, _ in before.tags}
    names = {name for _, attributes in before.tags for name in attributes}
    assert {name for _, attributes in after.tags for name in attributes} <= names
    assert " ".join(display_name(nasty).split()) in after.text
    assert after.data["runs"][0]["map"]["classes"][0] == display_name(nasty)  # the script's data comes through unharmed
    assert not set("\x1b\x07\u202e\u2028\ud800") & set(page)
    assert len(after.scripts) == len(before.scripts) == 2 and after.scripts[1] == before.scripts[1]


def test_the_policy_allows_our_script_alone(page: str) -> None:
    import base64
    import hashlib

    digest = base64.b64encode(hashlib.sha256(Seen(page).scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    for name in ("page.js", "uPlot.iife.min.js"):
        assert "</script" not in (ASSETS / name).read_text()


def damage(folder: Path, how: str) -> None:
    path = folder / "exhibits" / "mistakes.jpg"
    if how == "gone":
        path.unlink()
    elif how == "text":
        path.write_text("<svg onload=alert(1)>")
    elif how == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize(
    "how, words",
    [
        ("gone", "exhibits/mistakes.jpg can't be read (No such file or directory)"),
        ("text", "exhibits/mistakes.jpg can't be read (no whole picture)"),
        ("half", "exhibits/mistakes.jpg can't be read (no whole picture)"),
        ("small", "exhibits/mistakes.jpg is of 8 x 8 pixels, not 256 x 64"),
    ],
)
def test_a_picture_that_cannot_be_read_is_a_problem(tmp_path: Path, how: str, words: str) -> None:
    run = {**whole_run(tmp_path), "problems": []}
    damage(tmp_path, how)
    text = Seen(render(report_of([run]), [tmp_path])).text
    assert "1 problem found" in text and words in text
    assert "no picture" in text and "plane → car" in text  # the words are shown nevertheless


def test_only_pictures_named_from_the_folder_are_taken_in(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "run")
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (256, 64)).save(secret)
    run["exhibits"]["mistakes"]["sprite"]["file"] = str(secret)
    assert "is not the name of a picture" in Seen(render(report_of([run]), [tmp_path / "run"])).text


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", [{}, [], {"classes": 3}, "text"], ids=str)
def test_a_damaged_exhibit_is_a_problem(tmp_path: Path, part: str, content) -> None:
    run = {**bare_run(), "exhibits": {**bare_run()["exhibits"], part: content}}
    text = Seen(render(report_of([run]), [tmp_path])).text
    assert f"{PARTS[part]}: the exhibit is damaged and was left out" in text


@pytest.mark.parametrize("label", [99, -1, "1"])
def test_a_map_with_a_label_of_no_class_is_a_problem(tmp_path: Path, label) -> None:
    run = whole_run(tmp_path)
    run["exhibits"]["map"]["points"][0][2] = label
    assert "a label has no class" in Seen(render(report_of([run]), [tmp_path])).text


def test_features_without_labels_are_shown_without(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    for row in run["exhibits"]["neighbours"]["rows"]:
        row["label"] = None
        row["neighbours"] = [{**one, "label": None} for one in row["neighbours"]]
    for point in run["exhibits"]["map"]["points"]:
        point[2] = None
    text = Seen(render(report_of([run]), [tmp_path])).text
    assert "no label" in text and "✗" not in text and "1 problem found" in text  # the run's own


def test_many_classes_are_a_picture_with_lists(tmp_path: Path) -> None:
    size = 300
    counts = np.eye(size, dtype=int) * 5
    counts[3, 7] = 4
    confusion = {"source": "kNN", "classes": [f"class {i}" for i in range(size)], "counts": counts.tolist()}
    run = {**bare_run(), "exhibits": {**bare_run()["exhibits"], "confusion": confusion}}
    page = render(report_of([run]), [tmp_path])
    seen = Seen(page)
    assert "canvas" in {tag for tag, _ in seen.tags} and 'class="confusion"' not in page
    assert "class 3 → class 7 4 44.4%" in seen.text
    drawn = seen.data["runs"][0]["confusion"]
    assert dict(zip(drawn["cells"], drawn["counts"]))[3 * size + 7] == 4 and len(drawn["cells"]) == size + 1


def test_a_class_without_images_has_no_accuracy(tmp_path: Path) -> None:
    confusion = {"source": "", "classes": ["a", "b"], "counts": [[3, 1], [0, 0]]}
    run = {**bare_run(), "exhibits": {**bare_run()["exhibits"], "confusion": confusion}}
    text = Seen(render(report_of([run]), [tmp_path])).text
    assert "a 75.0% 100.0% 4 b none 0.0% 0" in text


def test_recall_and_precision_have_their_intervals(tmp_path: Path) -> None:
    intervals = {"recall": [[0.5, 1.0], None], "precision": [[0.9, 1.0], None]}
    confusion = {"source": "", "classes": ["a", "b"], "counts": [[3, 1], [0, 0]], "intervals": intervals}
    run = {**bare_run(), "exhibits": {**bare_run()["exhibits"], "confusion": confusion}}
    assert "a 75.0% 50.0 to 100.0% 100.0% 90.0 to 100.0% 4 b none" in Seen(render(report_of([run]), [tmp_path])).text
    for damaged in ({"recall": [[0.5]], "precision": []}, {"recall": [[0.5, "x"], None], "precision": [None, None]}):
        run["exhibits"] = {**run["exhibits"], "confusion": {**confusion, "intervals": damaged}}
        assert "the exhibit is damaged" in render(report_of([run]), [tmp_path])


def test_the_commonest_class_stands_next_to_the_headline_and_in_the_table(tmp_path: Path) -> None:
    majority = {"class": "free <b>", "value": 0.563, "metric": "top1", "detail": "measured on 190 images: tiles"}
    run = whole_run(tmp_path)
    knn, tuned = run["results"]
    run["results"] = [{**knn, "majority": majority}, {**tuned, "majority": majority}]
    knn["starts"]["pretrained"]["interval"] = [0.385, 0.455]
    text = Seen(render(report_of([run]), [tmp_path])).text
    assert text.count("always the commonest class: 56.3%") == 2, "for kNN and for fine-tuning"
    assert text.count("always the commonest class, 'free <b>' measured on 190 images: tiles 56.3%") == 1
    assert "95% interval 38.5 to 45.5%" in text and "95%: 38.5 to 45.5%" in text


def test_values_that_are_no_numbers_are_counted_not_drawn(tmp_path: Path) -> None:
    run = bare_run()
    run["curves"]["loss"]["value"][2:5] = [math.nan, math.inf, 10**400]
    run["curves"]["loss"]["step"][0] = "first"
    seen = Seen(render(report_of([run]), [tmp_path]))
    assert "loss: 3 values are no finite numbers and are not drawn" in seen.text
    curve = seen.data["runs"][0]["curves"]["loss"]
    assert len(curve["value"]) == len(curve["step"]) == 47 and curve["step"][0] is None


def test_long_curves_are_reduced_and_keep_their_peaks() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[54_321], values[77_777] = 50.0, -50.0
    places = pick_places(values.tolist(), MOST_POINTS)
    assert {0, 54_321, 77_777, 99_999} <= set(places)
    assert MOST_POINTS / 2 < len(places) <= MOST_POINTS and list(places) == sorted(set(places))
    assert max(np.diff(places)) < 400  # evenly
    assert list(pick_places([3.0, 1.0], 2)) == [0, 1]


def test_the_headline_is_of_the_best_row(tmp_path: Path) -> None:
    run = whole_run(tmp_path)
    worse = {"pretrained": cell([0.2], "x")}
    run["results"].append({"task": "knn", "title": "kNN, k = 200", "detail": "", "metric": "top1", "starts": worse})
    text = Seen(render(report_of([run]), [tmp_path])).text
    assert "42.0% +12.0 points over 30.0% untrained kNN, k = 20, weighted votes, accuracy (best of 2)" in text


def test_small_pictures_are_magnified(page: str) -> None:
    assert re.search(r"\.sheet-\d+\{width:64px;height:64px;background-size:512px 128px;", page)  # 32 pixels, 8 columns
    assert 'class="magnified"' in page and f"{CLASSES[0]}</bdi> → <bdi>" in page


@pytest.mark.parametrize(
    "seconds, words",
    [(0.5, "0.5 s"), (141.2, "2 min 21 s"), (3599.9, "1 h 0 min"), (11520, "3 h 12 min"), (None, "unknown")],
)
def test_durations_read_well(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words


def test_numbers_read_well() -> None:
    assert [number(value) for value in (50000, 1.02, None, "many")] == ["50,000", "1.02", "unknown", "many"]
