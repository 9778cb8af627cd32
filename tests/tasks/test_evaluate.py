"""Evaluation: what is counted, at which size, from which start, and where it is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlemae.data.sources import SourceNote, open_source, subset, with_classes
from paddlemae.data.views.augment import eval_view
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.positions import resize_positions
from paddlemae.recipe import load_recipe, parse_overrides
from paddlemae.runs.confusion import Confusion, read_confusion
from paddlemae.runs.exhibit_files import read_exhibit
from paddlemae.runs.metrics import CLASSIFICATION
from paddlemae.tasks import evaluate as task
from paddlemae.tasks.evaluate import evaluate
from paddlemae.tasks.finetune import finetune
from paddlemae.tasks.knn import knn, winners
from paddlemae.tasks.models.build import load_classifier, load_encoder
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.models.preprocess import evaluation_view, to_input
from paddlemae.tasks.models.read_model import read_checkpoint
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.probe import probe
from paddlemae.tasks.study import Study, study
from paddlemae.tasks.training.classification import SHOWN_MISTAKES, evaluation_of, surest_mistakes
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint_folders import find_checkpoint
from paddlemae.weights.model_folder import Description
from paddlemae.weights.transfer import load_official

QUICK = ["threads=1", "log_every=1", "batch_size=8", "steps=4", "warmup_epochs=0.5", "epochs=3"]


def results_of(run: Path) -> list[dict]:
    path = run / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# counting


def test_predictions_are_counted_over_all_batches() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (50, 8)).astype(np.float32), rng.integers(0, 8, 50)
    indices = rng.permutation(900)[:50]
    found = evaluation_of(zip(*(np.array_split(each, [7, 30]) for each in (indices, labels, logits))), 8)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    predicted, right = logits.argmax(axis=1), shares[np.arange(50), labels]
    assert found.metrics["top1"] == (predicted == labels).mean()
    assert found.metrics["top5"] == np.mean([(row > row[label]).sum() < 5 for row, label in zip(logits, labels)])
    assert found.loss == pytest.approx(-np.log(right).mean(), rel=1e-5)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-shares.max(axis=1)[wrong])][:SHOWN_MISTAKES]
    assert len(wrong) > SHOWN_MISTAKES == len(found.mistakes)
    assert [one.index for one in found.mistakes] == indices[surest].tolist()
    assert [(one.true, one.predicted) for one in found.mistakes] == list(zip(labels[surest], predicted[surest]))
    np.testing.assert_allclose([one.confidence for one in found.mistakes], shares.max(axis=1)[surest], rtol=1e-5)


def test_the_lowest_class_wins_a_tie_and_large_logits_are_no_error() -> None:
    logits = np.array([[0, 5, 5], [1e4, -1e4, 1e4]], np.float32)
    found = evaluation_of([(np.array([3, 4]), np.array([2, 2]), logits)], 3)
    assert found.confusion.matrix().tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert [(one.index, one.predicted) for one in found.mistakes] == [(4, 0), (3, 1)]
    assert [one.confidence for one in found.mistakes] == pytest.approx([0.5, 1 / (2 + np.exp(-5))])


def test_rows_of_a_confusion_are_true_classes() -> None:
    assert Confusion.of(np.array([0, 0, 2, 2, 2]), np.array([1, 1, 2, 0, 2]), 3).matrix().tolist() == [
        [0, 2, 0],
        [0, 0, 0],
        [1, 0, 2],
    ]


def test_without_mistakes_none_are_shown() -> None:
    labels = np.arange(4)
    assert surest_mistakes(labels, labels, labels, np.ones(4)) == []


def test_the_winner_of_a_vote_comes_with_its_share() -> None:
    classes, shares = winners(np.array([[0, 1, 1], [2, 2, 2]]), np.array([[5.0, 1.0, 2.0], [1.0, 1.0, 1.0]]), 3)
    assert classes.tolist() == [0, 2] and shares.tolist() == [5 / 8, 1.0]


# the protocol: resize the short side bicubically, keep the ratio for other sizes, crop the centre


@pytest.mark.parametrize(("size", "short_side"), [(224, 256), (288, 329)])
@pytest.mark.parametrize("shape", [(300, 417), (417, 300), (190, 190)])
def test_images_are_resized_and_cropped_as_is_usual(size: int, short_side: int, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    width, height = (int(short_side * side / min(shape)) for side in reversed(shape))
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    expected = np.asarray(resized.crop((left, top, left + size, top + size)))
    architecture = {"image_size": [size, size], "channels": 3}
    view = evaluation_view(Description("classifier", architecture, [0.5] * 3, [0.5] * 3, eval_crop_ratio=0.875))
    assert (eval_view(pixels, view) == expected.transpose(2, 0, 1)).all()


# a fine-tuned classifier


@pytest.fixture(scope="module")
def alike(tmp_path_factory) -> Path:
    """Three classes of grey noise, a little lighter, redder or greener: told apart, but not all. Not to be changed."""
    root = tmp_path_factory.mktemp("alike")
    for part, count in (("train", 8), ("test", 4)):
        for place, name in enumerate(("greener", "lighter", "redder")):
            tint = np.array([(0, 4, 0), (3, 3, 3), (4, 0, 0)][place])
            for number in range(count):
                noise = np.random.default_rng([place, number, count]).integers(100, 151, (10, 12, 3))
                (root / part / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray((noise + tint).astype(np.uint8)).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def tune(encoder, alike) -> Callable[..., dict]:
    def run(out: Path, *overrides: str) -> dict:
        chosen = [f"data={alike}", "init=scratch", *encoder, *QUICK, "base_lr=0.3", *overrides]
        return finetune(load_recipe("finetune", None, chosen), Start(out, quiet=True))

    return run


@pytest.fixture(scope="module")
def tuned(tune, tmp_path_factory) -> tuple[Path, dict]:
    """A classifier that knows something. Its results and exhibits change, its weights don't."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    return out, tune(out, "layer_decay=1", "ema_decay=0.5")


MEASURED = ("top1", "balanced_accuracy", "macro_f1", "auroc", "primary", "intervals", "majority", "eval_images")


def test_evaluation_is_the_fine_tunings_own(tuned, alike) -> None:
    out, result = tuned
    own = [read_exhibit(out, part) for part in ("confusion", "mistakes")]
    for run in (out, find_checkpoint(out)):
        found = evaluate(str(run), str(alike), threads=1)
        assert {name: found[name] for name in MEASURED} == {name: result[name] for name in MEASURED}
        assert found["eval_loss"] == pytest.approx(result["eval_loss"], rel=1e-6)  # batches are of another size
    assert 0 < found["top1"] < 1, "else anything would agree"
    fine_tuning, *evaluations = results_of(out)
    assert fine_tuning["task"] == "finetune" and fine_tuning["start"] == "scratch"
    assert [one["checkpoint"] for one in evaluations] == [found["checkpoint"]] * 2 == ["step_00000004"] * 2
    del found["per_class"]  # a line of results for each class of 21,000 would be long
    assert all({name: one[name] for name in found} == found and one["command"] and one["at"] for one in evaluations)
    for before, part in zip(own, ("confusion", "mistakes")):
        after = read_exhibit(out, part)
        assert before is not None and after is not None
        assert after.pop("source") == f"evaluated on {alike / 'test'}" != before.pop("source")
        assert after == before


def test_another_split_is_other_images(tuned, alike) -> None:
    found = evaluate(str(tuned[0]), str(alike), split="train", threads=1)
    assert found["eval_images"] == 24 and found != evaluate(str(tuned[0]), str(alike), threads=1)


@pytest.mark.parametrize("size", [12, (16, 8)])
def test_at_another_size_positions_are_resized(tuned, alike, size) -> None:
    out, _ = tuned
    found = evaluate(str(out), str(alike), image_size=size, threads=1)
    own = evaluate(str(out), str(alike), threads=1)
    height, width = (size, size) if isinstance(size, int) else size
    assert found["protocol"]["image_size"] == [height, width] and own["protocol"]["image_size"] == [8, 8]
    assert found["eval_images"] == 12 and found["eval_loss"] != own["eval_loss"]
    # the same as a model that was built at that size with the positions resized beforehand
    checkpoint = read_checkpoint(out)
    architecture = {**checkpoint.description.architecture, "image_size": [height, width]}
    model = VisionTransformer(**architecture)
    cls_row, table = np.split(checkpoint.tensors["pos_embed"], [1], axis=1)
    resized = resize_positions(paddle.to_tensor(table[0]), (2, 2), model.grid).numpy()
    positions = np.concatenate([cls_row, resized[None]], axis=1)
    load_official(model, {**checkpoint.tensors, "pos_embed": positions}, source="here")
    model.eval()
    view = evaluation_view(replace(checkpoint.description, architecture=architecture))
    source = open_source(str(alike), "test", labelled=True)
    pixels = np.stack([eval_view(source.read(i, 3), view) for i in range(12)])
    logits = model(to_input(pixels, checkpoint.description)).numpy()
    expected = evaluation_of([(np.arange(12), source.labels, logits)], 3)  # type: ignore[list-item]
    assert found["top1"] == expected.metrics["top1"]
    assert found["eval_loss"] == pytest.approx(expected.loss, rel=1e-5)


def test_what_can_not_be_evaluated_is_one_line_and_logs_nothing(tuned, alike) -> None:
    for changes, message in [
        (dict(image_size=10), "image size 10 x 10 is not divisible by the patch size 4 x 4; 8 x 8 would be"),
        (dict(image_size=0), "image and patch sizes must be at least 1 pixel"),
        (dict(split="nonsense"), "nonsense"),
        (dict(data="nowhere"), "nowhere"),
        (dict(data="digits"), "knows 3 classes, and digits .* of others: '0', '1', .*; evaluate on images of"),
    ]:
        before = results_of(tuned[0])
        with pytest.raises((ValueError, FileNotFoundError), match=message) as fault:
            evaluate(str(tuned[0]), **{"data": str(alike), **changes})
        assert "\n" not in str(fault.value) and results_of(tuned[0]) == before


def test_classes_are_matched_by_their_names(tuned, alike, monkeypatch) -> None:
    expected = evaluate(str(tuned[0]), str(alike), threads=1)
    opened = open_source(str(alike), "test", labelled=True)
    reversed_ = with_classes(opened, opened.classes[::-1])
    assert reversed_.labels.tolist() == [2] * 4 + [1] * 4 + [0] * 4
    monkeypatch.setattr(task, "open_test_part", lambda *_, **__: reversed_)
    assert evaluate(str(tuned[0]), str(alike), threads=1) == expected
    monkeypatch.setattr(task, "open_test_part", lambda *_, **__: subset(with_classes(opened, opened.classes), range(8)))
    with pytest.warns(SourceNote, match="1 of 3 classes have no image in .*: 'redder'"):
        assert evaluate(str(tuned[0]), str(alike), threads=1)["eval_images"] == 8


def test_only_classifiers_are_evaluated(pretrained, alike) -> None:
    with pytest.raises(ValueError, match="holds a masked autoencoder, which has no classes; name a fine-tuning run"):
        evaluate(str(pretrained), str(alike))


def test_the_command_says_what_it_measured(tuned, alike, paddlemae, pretrained) -> None:
    done = paddlemae("evaluate", tuned[0], "--data", alike, "--image-size", 12)
    assert done.status == 0, done.err
    top1 = results_of(tuned[0])[-1]["top1"]
    rows = {line.split("  ")[0]: line.split() for line in done.out.splitlines()}
    assert f"{top1:.2%}" in rows["accuracy (primary)"] and "12 x 12 pixels" in done.out.splitlines()[0]
    assert rows["accuracy (primary)"][-1] == rows["balanced accuracy"][-1] == "33.33%", "always the commonest class"
    assert {"greener", "lighter", "redder"} <= set(rows)
    refused = paddlemae("evaluate", pretrained, "--data", alike)
    assert refused.status == 2 and refused.err.count("\n") == 1 and "name a fine-tuning run" in refused.err


# starts


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny, photos) -> Path:
    """A pretraining whose encoder differs from the untrained one."""
    recipe = load_recipe("pretrain", None, [*tiny, f"data={photos}", "base_lr=0.3", "warmup_epochs=0"])
    return pretrain(recipe, Start(tmp_path_factory.mktemp("pretrained") / "run", quiet=True))


def test_an_untrained_encoder_is_always_the_same(run: Path) -> None:
    checkpoint = read_checkpoint(run)
    trained, one, other = (load_encoder(checkpoint, random=random) for random in (False, True, True))
    assert not one.training
    weights = [model.encoder.blocks[0].attn.qkv.weight.numpy() for model in (trained, one, other)]
    assert (weights[1] == weights[2]).all() and (weights[0] != weights[1]).mean() > 0.9
    assert one.config == trained.config


def test_a_classifier_is_refused_of_any_other_model(run: Path) -> None:
    with pytest.raises(ValueError, match="holds a masked autoencoder, which has no classes"):
        load_classifier(read_checkpoint(run))


def test_knn_of_the_untrained_encoder_is_logged_as_such(run: Path, alike: Path) -> None:
    settings: dict = dict(kind=FeatureKind(), neighbours=[1, 3], threads=1)
    untrained = knn(str(run), str(alike), random=True, **settings)
    assert not {"neighbours.json", "map.json", "mistakes.json"} & {path.name for path in (run / "exhibits").iterdir()}
    pretrained = knn(str(run), str(alike), **settings)
    shown = {path.name: path.read_bytes() for path in (run / "exhibits").iterdir()}
    assert {"neighbours.json", "map.json", "mistakes.json", "confusion.json"} < set(shown)
    assert knn(str(run), str(alike), random=True, **settings) == untrained
    assert {path.name: path.read_bytes() for path in (run / "exhibits").iterdir()} == shown
    logged = results_of(run)
    assert [one["start"] for one in logged] == ["random"] * 4 + ["pretrained"] * 4 + ["random"] * 4
    for one, other in zip(untrained, pretrained):
        measured = {"start", "only", "intervals", *CLASSIFICATION.titles}
        same = [{key: value for key, value in each.items() if key not in measured} for each in (one, other)]
        assert same[0] == same[1] and same[0]["majority"]
    assert [one["top1"] for one in untrained] != [one["top1"] for one in pretrained]


def test_knn_shows_its_mistakes_as_they_are_counted(run: Path, alike: Path) -> None:
    results = knn(str(run), str(alike), kind=FeatureKind(), neighbours=[3], threads=1)
    confusion, mistakes = (read_exhibit(run, part) for part in ("confusion", "mistakes"))
    assert confusion is not None and mistakes is not None and "k = 3" in confusion["source"]
    counts = read_confusion(confusion).matrix()
    assert counts.sum() == 12 and np.trace(counts) / 12 == results[0]["top1"]
    assert len(mistakes["items"]) == 12 - np.trace(counts) > 0
    sure = [item["confidence"] for item in mistakes["items"]]
    assert sure == sorted(sure, reverse=True) and all(0 < share <= 1 for share in sure)
    assert all(item["name"].startswith(mistakes["classes"][item["true"]]) for item in mistakes["items"])


def test_a_checkpoint_without_its_run_logs_nothing(run: Path, alike: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone/checkpoint"
    shutil.copytree(find_checkpoint(run), alone)
    assert knn(str(alone), str(alike), kind=FeatureKind(), neighbours=[3], threads=1)[0]["top1"] > 0
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["checkpoint"]


def probed(run: Path, out: Path, alike: Path, *overrides: str) -> dict:
    chosen = [f"init={json.dumps(str(run))}", f"data={alike}", "batch_size=8", "steps=3", "threads=1", *overrides]
    return probe(load_recipe("probe", None, chosen), Start(out, quiet=True))


def test_a_probe_of_the_untrained_encoder_is_logged_next_to_the_other(run: Path, alike: Path, tmp_path: Path) -> None:
    settings = ("base_lr=10", "cached=true", "epochs=1", "warmup_epochs=0")
    before = len(results_of(run))
    results = [probed(run, tmp_path / name, alike, *settings, f"random={name}") for name in ("false", "true")]
    logged = results_of(run)[before:]
    assert [one["start"] for one in logged] == ["pretrained", "random"]
    assert logged[0]["protocol"] == logged[1]["protocol"]
    for one, result, name in zip(logged, results, ("false", "true")):
        assert one["top1"] == result["top1"] and (run / one["run"]).resolve() == (tmp_path / name).resolve()
        own = results_of(tmp_path / name)
        assert len(own) == 1 and own[0]["start"] == one["start"] and "run" not in own[0]
    assert results[0]["eval_loss"] != results[1]["eval_loss"]
    # and a probe itself is no model to look into
    for ask in (
        lambda: knn(str(tmp_path / "true"), str(alike), kind=FeatureKind()),
        lambda: evaluate(str(tmp_path / "true"), str(alike)),
        lambda: probed(tmp_path / "true", tmp_path / "second", alike),
    ):
        with pytest.raises(ValueError, match="holds the head of a linear probe alone; name the run") as fault:
            ask()
        assert str(run) in str(fault.value)


def test_a_study_logs_both_starts_next_to_the_pretraining(run: Path, alike: Path, encoder, tmp_path: Path) -> None:
    before = len(results_of(run))
    # from scratch the model has to be named; it is the pretraining's own
    settings = parse_overrides([f"data={alike}", *encoder, *QUICK])
    plan = Study(None, settings, "labels", {"6": 6}, (1,), str(run), scratch=True)
    found = study(plan, tmp_path / "study", finetune, quiet=True)["top1"]
    logged = results_of(run)[before:]
    assert [(one["start"], one["protocol"]["seed"]) for one in logged] == [("pretrained", 1), ("scratch", 1)]
    assert [one["top1"] for one in logged] == found["pretrained"]["6"] + found["scratch"]["6"]
    assert {one["protocol"]["labels"] for one in logged} == {6} and {one["checkpoint"] for one in logged} == {
        find_checkpoint(run).name
    }
    for one in logged:
        (own,) = results_of(run / one["run"])
        assert own["top1"] == one["top1"] and own["start"] == one["start"]


def test_a_training_from_scratch_alone_is_logged_in_its_own_run(tune, tmp_path: Path) -> None:
    tune(tmp_path / "alone", "steps=1")
    (own,) = results_of(tmp_path / "alone")
    assert own["start"] == "scratch" and "checkpoint" not in own
