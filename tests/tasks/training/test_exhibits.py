"""What a run shows: attention as NumPy computes it, the same images throughout training, and no effect on training."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import load_file

from paddlemae.data.sources import open_source
from paddlemae.data.sources.subsets import spread_over
from paddlemae.data.views.augment import View
from paddlemae.model.blocks import NORM_EPSILON
from paddlemae.model.classifier import VisionTransformer
from paddlemae.model.encoder import attention_maps, features
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.recipe import load_recipe
from paddlemae.runs.bootstrap import Intervals
from paddlemae.runs.confusion import Confusion
from paddlemae.runs.exhibit_files import read_exhibit, write_exhibit
from paddlemae.tasks.pretrain import pretrain
from paddlemae.tasks.training import exhibits
from paddlemae.tasks.training.exhibits import Mistake, Snapshots, pictures_at, show_map, show_mistakes, show_neighbours
from paddlemae.tasks.training.run_start import Start
from paddlemae.train.checkpoint import TrainState
from paddlemae.train.checkpoint_folders import find_checkpoint
from tests.support.resumed_runs import interrupt_after

SHAPE = dict(image_size=[12, 12], patch_size=4, channels=3, embed_dim=16, num_heads=2)
DECODER = dict(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
COLOUR_VIEW = View((8, 8), 3)


# attention


def model_of(kind, **changes):
    """Weights, biases and tokens all drawn, so that each of them counts."""
    model = kind(**{**SHAPE, **changes})
    rng = np.random.default_rng(3)
    for parameter in model.parameters():
        parameter.set_value(rng.normal(0, 0.4, parameter.shape).astype(np.float32))
    return model


def as_float64(value) -> np.ndarray:
    return value.numpy().astype(np.float64)


def norm(x: np.ndarray, layer) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + NORM_EPSILON)
    return scaled * as_float64(layer.weight) + as_float64(layer.bias)


def linear(x: np.ndarray, layer) -> np.ndarray:
    return x @ as_float64(layer.weight) + as_float64(layer.bias)


def attention_of(x_ND: np.ndarray, block) -> tuple[np.ndarray, np.ndarray]:
    """(weights [heads, N, N], values [N, D]), head after head."""
    width, heads = x_ND.shape[1], block.attn.num_heads
    query, key, value = np.split(linear(norm(x_ND, block.norm1), block.attn.qkv), 3, axis=1)
    weights = []
    for columns in np.split(np.arange(width), heads):
        scores = np.exp(query[:, columns] @ key[:, columns].T / math.sqrt(width // heads))
        weights.append(scores / scores.sum(axis=1, keepdims=True))
    return np.stack(weights), value


def last_attention(model, image_CHW: np.ndarray) -> np.ndarray:
    """The last block's attention weights of one image, float64 [heads, N, N], from the model's weights alone."""
    (height, width), (rows, columns) = model.encoder.patch_size, model.grid
    patches = [
        image_CHW[:, r * height : (r + 1) * height, c * width : (c + 1) * width].transpose(1, 2, 0).ravel()
        for r in range(rows)
        for c in range(columns)
    ]
    positions, front = as_float64(model.encoder.pos_embed)[0], int(model.encoder.has_cls)
    x_ND = linear(np.stack(patches).astype(np.float64), model.encoder.patch_embed.proj) + positions[front:]
    if front:
        x_ND = np.concatenate([as_float64(model.encoder.cls_token)[0] + positions[:1], x_ND])
    *before, last = model.encoder.blocks
    gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)
    for block in before:
        weights, value = attention_of(x_ND, block)
        heads = np.split(value, len(weights), axis=1)
        mixed = np.concatenate([one @ head for one, head in zip(weights, heads)], axis=1)
        x_ND = x_ND + linear(mixed, block.attn.proj)
        x_ND = x_ND + linear(gelu(linear(norm(x_ND, block.norm2), block.mlp.fc1)), block.mlp.fc2)
    return attention_of(x_ND, last)[0]


def test_attention_maps_are_the_softmax_by_hand() -> None:
    for (kind, more), depth, (size, patch, cls_token) in product(
        [(MaskedAutoencoder, DECODER), (VisionTransformer, {"num_classes": 3})],
        [1, 2],
        [([12, 12], 4, True), ([8, 20], 4, True), ([12, 8], [4, 2], False)],
    ):
        pool = {"pool": "mean"} if kind is VisionTransformer else {}
        model = model_of(kind, image_size=size, patch_size=patch, depth=depth, cls_token=cls_token, **pool, **more)
        images = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
        by_hand = np.stack([last_attention(model, image) for image in images])
        front = int(cls_token)
        for token in ("cls", "mean") if cls_token else ("mean",):
            maps = attention_maps(model, paddle.to_tensor(images), token).numpy()
            asking = by_hand[:, :, :1] if token == "cls" else by_hand[:, :, front:]
            expected = asking.mean(axis=2)
            assert maps.shape == (2, 2, model.grid[0] * model.grid[1])
            np.testing.assert_allclose(maps, expected[:, :, front:], atol=2e-5)
            assert maps.std() > 0.01, "flat maps would agree with any"
            share_of_cls = expected[:, :, 0] if cls_token else 0
            np.testing.assert_allclose(maps.sum(axis=2) + share_of_cls, 1, atol=1e-4)


def test_attention_is_on_the_patches_of_another_size_too() -> None:
    model = model_of(MaskedAutoencoder, depth=1, **DECODER)
    maps = attention_maps(model, paddle.rand([1, 3, 8, 20]), "cls")
    assert maps.shape == [1, 2, 10]


def test_attention_maps_ignore_drop_path_and_keep_the_mode() -> None:
    model = model_of(VisionTransformer, depth=3, drop_path=0.9, num_classes=3)
    images = paddle.rand([4, 3, 12, 12])
    maps = attention_maps(model, images, "cls")
    model.train()
    assert (attention_maps(model, images, "cls").numpy() == maps.numpy()).all() and model.training


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("cls", "no cls token; use pool='mean'"),
        ("all", "must be one of cls, mean"),
        ("mean+std", "must be one of cls, mean"),
    ],
)
def test_a_token_that_there_is_not_is_refused(token: str, message: str) -> None:
    model = model_of(MaskedAutoencoder, depth=1, cls_token=False, **DECODER)
    with pytest.raises(ValueError, match=message):
        attention_maps(model, paddle.rand([1, 3, 12, 12]), token)


@pytest.mark.parametrize(
    ("kind", "more", "wanted"),
    [
        (MaskedAutoencoder, DECODER, "cls"),
        (MaskedAutoencoder, {**DECODER, "cls_token": False}, "mean"),
        (VisionTransformer, {"pool": "mean", "num_classes": 3}, "mean"),
        (VisionTransformer, {"pool": "cls", "num_classes": 3}, "cls"),
    ],
)
def test_a_run_shows_the_token_that_its_model_is_judged_by(tmp_path, monkeypatch, kind, more, wanted: str) -> None:
    from paddlemae.tasks.models.build import describe

    asked = []
    maps = lambda model, images, token: asked.append(token) or attention_maps(model, images, token)  # noqa: E731
    monkeypatch.setattr(exhibits, "attention_maps", maps)
    model = model_of(kind, image_size=[12, 20], depth=1, **more)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 12, 20), dtype=np.uint8)
    exhibits.show_attention(tmp_path, model, describe(model, ([0.5] * 3, [0.5] * 3), eval_crop_ratio=1.0), images)
    shown = read_exhibit(tmp_path, "attention")
    assert shown is not None and asked == [wanted] and shown["heads"] == 2
    assert ("cls token" in shown["caption"]) == (wanted == "cls")
    sheets = {name: (shown[name]["count"], shown[name]["columns"]) for name in ("original", "mean", "each")}
    assert sheets == {"original": (3, 3), "mean": (3, 3), "each": (6, 2)}
    assert all(shown[name]["tile"] == [12, 20] for name in sheets)


# snapshots


@pytest.mark.parametrize(
    ("total", "wanted"), [(1, {1}), (3, {1, 2, 3}), (32, {1, 2, 4, 8, 16, 24, 32}), (60, {2, 4, 8, 15, 30, 45, 60})]
)
def test_snapshots_are_taken_early_and_at_the_end(tmp_path, monkeypatch, total: int, wanted: set[int]) -> None:
    taken: list[int] = []
    monkeypatch.setattr(Snapshots, "take", lambda self, step: taken.append(step))
    nothing: dict = dict.fromkeys(("model", "description", "images_u8", "mask"))
    snapshots = Snapshots(tmp_path, **nothing, total_steps=total, epochs_a_step=0.1)
    state = TrainState(paddle.nn.Linear(1, 1), None)  # type: ignore[arg-type]
    for state.step in range(1, total + 1):
        snapshots(state, None)
    assert set(taken) == wanted and taken == sorted(wanted)


TAKEN = [0, 1, 2, 3, 4, 6]


@pytest.fixture(scope="module")
def recipe(tiny, photos):
    """6 steps, with drop path, whose noise a look at the model must not take."""
    chosen = ["batch_size=3", "accumulation_steps=2", "steps=6", "drop_path=0.3", "depth=2", "base_lr=0.05"]
    return load_recipe("pretrain", None, [*tiny, *chosen, "epochs=4", "warmup_epochs=0.5", f"data={photos}"])


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> Path:
    """A run that was not interrupted. Not to be changed."""
    return pretrain(recipe, Start(tmp_path_factory.mktemp("whole") / "run", quiet=True))


def tensors_of(run: Path) -> dict[str, np.ndarray]:
    folder = find_checkpoint(run)
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("model", "optimizer")}
    return {f"{name}: {key}": tensor for name, tensors in files.items() for key, tensor in tensors.items()}


def test_looking_does_not_change_what_is_learned(recipe, whole: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Snapshots, "take", lambda self, step: None)
    pretrain(recipe, Start(tmp_path / "unseen", quiet=True))
    assert read_exhibit(tmp_path / "unseen", "reconstructions") is None
    with_them, without = tensors_of(whole), tensors_of(tmp_path / "unseen")
    assert set(with_them) == set(without) and len(without) > 40
    for name, tensor in with_them.items():
        np.testing.assert_array_equal(tensor, without[name], err_msg=name)


def test_the_same_images_are_shown_at_each_step(whole: Path) -> None:
    shown = read_exhibit(whole, "reconstructions")
    assert shown is not None and [(one["step"], one["epoch"]) for one in shown["steps"]] == [
        (step, step * 6 / 12) for step in TAKEN
    ]
    assert "3 of 4 patches removed" in shown["caption"]
    for sprite in (shown["original"], shown["masked"], *(one["sprite"] for one in shown["steps"])):
        assert (sprite["count"], sprite["columns"], sprite["tile"]) == (8, 8, [8, 8])
    files = [one["sprite"]["file"] for one in shown["steps"]]
    assert files == [f"exhibits/reconstructions-step_{step:08d}.jpg" for step in TAKEN]
    learned = {(whole / file).read_bytes() for file in files[1:]}  # the first step's rate is 0
    assert len(learned) == len(files) - 1, "each is another picture"


def exhibits_of(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "exhibits").iterdir()}


def test_a_resumed_run_shows_what_an_uninterrupted_one_shows(recipe, whole: Path, tmp_path, monkeypatch) -> None:
    """Also where a crash left snapshots of steps that the checkpoint does not have."""
    out = tmp_path / "parts"
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
        pretrain(recipe, Start(out, quiet=True))
    monkeypatch.undo()
    shown = read_exhibit(out, "reconstructions")
    assert shown is not None and [one["step"] for one in shown["steps"]] == TAKEN[:4]
    lost = [{**shown["steps"][-1], "step": step} for step in (4, 5)]
    write_exhibit(out, "reconstructions", {**shown, "steps": [*shown["steps"], *lost]})
    pretrain(recipe, Start(out, resume=True, quiet=True))
    assert exhibits_of(out) == exhibits_of(whole)


# images chosen, mistaken, near and laid out


@pytest.mark.parametrize(("length", "count", "wanted"), [(12, 4, [0, 3, 7, 11]), (3, 8, [0, 1, 2]), (1, 8, [0])])
def test_images_are_chosen_all_over_the_source(length: int, count: int, wanted: list[int]) -> None:
    assert spread_over(length, count).tolist() == wanted


@pytest.fixture
def damaged(tmp_path: Path, colours: Path) -> Path:
    """The colours' test part, whose second image (blue/1.png) can't be read."""
    for path in sorted((colours / "test").rglob("*.png")):
        copy = tmp_path / "data/test" / path.relative_to(colours / "test")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"" if str(copy).endswith("blue/1.png") else path.read_bytes())
    return tmp_path / "data"


def middle_colours(run: Path, sprite: dict) -> list[str]:
    """The colour that each picture of a sprite mostly has."""
    (height, width), columns = sprite["tile"], sprite["columns"]
    with Image.open(run / sprite["file"]) as sheet:
        pixels = np.asarray(sheet).astype(float)
    tops = [divmod(number, columns) for number in range(sprite["count"])]
    tiles = [pixels[row * height : (row + 1) * height, col * width : (col + 1) * width] for row, col in tops]
    return [("red", "green", "blue")[int(tile.mean(axis=(0, 1)).argmax())] for tile in tiles]


def test_unreadable_images_are_left_out_with_what_belongs_to_them(damaged: Path, tmp_path: Path) -> None:
    source = open_source(str(damaged), "test", labelled=True)
    images, found = pictures_at(source, COLOUR_VIEW, np.array([0, 1, 5]))
    assert images.shape == (2, 3, 8, 8) and found.tolist() == [0, 5]
    mistakes = [Mistake(index, index // 4, (index // 4 + 1) % 3, 0.5 + index / 50) for index in (9, 1, 5, 0)]
    confusion = Confusion.of(np.arange(3), np.arange(3), 3)
    show_mistakes(tmp_path, source, COLOUR_VIEW, confusion, mistakes, "title", Intervals({}, None, None))
    shown = read_exhibit(tmp_path, "mistakes")
    assert shown is not None and [item["name"] for item in shown["items"]] == ["red/1.png", "green/1.png", "blue/0.png"]
    assert middle_colours(tmp_path, shown["sprite"]) == ["red", "green", "blue"]
    assert [shown["classes"][item["true"]] for item in shown["items"]] == ["red", "green", "blue"]
    assert read_exhibit(tmp_path, "confusion") == {
        "source": "title",
        "classes": ["blue", "green", "red"],
        "true": [0, 1, 2],
        "predicted": [0, 1, 2],
        "count": [1, 1, 1],
    }


def test_neighbours_stand_behind_their_query_the_nearest_first(colours: Path, tmp_path: Path) -> None:
    queries, bank = (open_source(str(colours), split, labelled=True) for split in ("test", "train"))
    asked = np.array([0, 4, 8])  # a blue, a green and a red one
    known = np.array([16, 0, 8, 1])  # red, blue, green, blue
    cosine = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, 0.4], [0.3, 0.2, 0.1]])
    nearest = np.array([[1, 3, 0], [2, 0, 1], [0, 2, 3]])
    show_neighbours(tmp_path, (queries, asked), (bank, known), COLOUR_VIEW, cosine, nearest, "kind")
    shown = read_exhibit(tmp_path, "neighbours")
    assert shown is not None and [row["name"] for row in shown["rows"]] == ["blue/0.png", "green/0.png", "red/0.png"]
    words = [[row["label"], *(one["label"] for one in row["neighbours"])] for row in shown["rows"]]
    named = [shown["classes"][label] for row in words for label in row]
    rows = ["blue", "blue", "blue", "red", "green", "green", "red", "blue", "red", "red", "green", "blue"]
    assert named == rows == middle_colours(tmp_path, shown["sprite"])
    assert [[one["cosine"] for one in row["neighbours"]] for row in shown["rows"]] == cosine.tolist()


def test_few_of_many_queries_and_neighbours_are_shown(colours: Path, tmp_path: Path) -> None:
    bank = open_source(str(colours), "train", labelled=True)
    rows = np.arange(24)
    nearest = np.stack([np.roll(rows, -row)[:9] for row in rows])
    show_neighbours(tmp_path, (bank, rows), (bank, rows), COLOUR_VIEW, np.ones((24, 9)), nearest, "kind")
    shown = read_exhibit(tmp_path, "neighbours")
    assert shown is not None and len(shown["rows"]) == 10
    assert {len(row["neighbours"]) for row in shown["rows"]} == {5} and shown["sprite"]["count"] == 60


def test_a_map_puts_images_of_like_features_together(colours: Path, tmp_path: Path) -> None:
    source = open_source(str(colours), "train", labelled=True)
    indices = np.arange(len(source))[::-1].copy()
    assert source.labels is not None
    directions = np.random.default_rng(0).normal(size=(3, 6))
    found = directions[source.labels[indices]] + np.random.default_rng(1).normal(0, 0.05, (24, 6))
    found *= np.random.default_rng(2).uniform(0.1, 10, (24, 1))  # only the direction counts
    show_map(tmp_path, source, COLOUR_VIEW, found, indices, "kind")
    shown = read_exhibit(tmp_path, "map")
    assert shown is not None and shown["sprite"]["count"] == len(shown["points"]) == 24
    labels = [shown["classes"][label] for _, _, label in shown["points"]]
    assert labels == middle_colours(tmp_path, shown["sprite"]) == ["red"] * 8 + ["green"] * 8 + ["blue"] * 8
    points = np.array(shown["points"])
    for row, point in enumerate(points):
        distance = np.linalg.norm(points[:, :2] - point[:2], axis=1)
        assert points[np.argsort(distance)[1], 2] == point[2], row
    again = tmp_path / "again"
    show_map(again, source, COLOUR_VIEW, found, indices, "kind")
    assert json.loads((again / "exhibits/map.json").read_text()) == shown, "the same features, the same map"


def test_too_few_images_make_no_map(colours: Path, tmp_path: Path) -> None:
    source = open_source(str(colours), "test", labelled=True)
    show_map(tmp_path, source, COLOUR_VIEW, np.eye(7), np.arange(7), "kind")
    assert read_exhibit(tmp_path, "map") is None
    show_map(tmp_path, source, COLOUR_VIEW, np.eye(8), np.arange(8), "kind")
    assert read_exhibit(tmp_path, "map") is not None


def test_features_after_a_block_are_those_of_a_model_that_ends_there() -> None:
    """`encode(depth=)` is what attention maps stand on."""
    model = model_of(MaskedAutoencoder, depth=2, **DECODER)
    images = paddle.rand([2, 3, 12, 12])
    short = model_of(MaskedAutoencoder, depth=1, **DECODER)
    short.set_state_dict({name: value for name, value in model.state_dict().items() if "blocks.1" not in name})
    with_depth = features(model, images, "mean", depth=1).numpy()
    np.testing.assert_array_equal(with_depth, features(short, images, "mean").numpy())
