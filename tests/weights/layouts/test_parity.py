"""Layouts against the classes that they come from: transformers' and timm's, both ways, through files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from paddlemae.weights.adapt import change_image_size, change_patch_size
from paddlemae.weights.layouts import Exported, Imported, export_weights, import_weights, recognise
from tests.support.layout_cases import CASES, Case, images_of, rows_of
from tests.support.layout_checks import TOLERANCE, differences, our_result
from tests.support.layout_layers import table_2d
from tests.support.layout_models import Result

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # transformers and timm announce what they lack
]

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
SHAPE: dict[str, Any] = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=32,
    image_size=8,
    patch_size=4,
    layer_norm_eps=1e-6,
)
DECODER = dict(
    decoder_hidden_size=8, decoder_num_hidden_layers=2, decoder_num_attention_heads=2, decoder_intermediate_size=16
)
ANY = Case("transformers", "mae", {})


def draw(model: Any, large_tokens: bool = False) -> Any:
    """Nothing is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos" in name and not parameter.requires_grad:  # the class leaves the computed table at zero here
                parameter.copy_(torch.from_numpy(table_2d(parameter.shape[-1], 2, 2)))
                continue
            noise = torch.rand(parameter.shape, generator=generator) - 0.5
            parameter.copy_(1 + noise if "norm" in name and name.endswith("weight") else noise)
            if large_tokens and name.endswith("cls_token"):
                parameter.mul_(10)
    return model.eval()


def their_result(model: Any, kind: str) -> Result:
    images, (_, removed) = torch.from_numpy(images_of(ANY)), rows_of(ANY)
    with torch.no_grad():
        if kind == "classifier":
            hidden = model.vit(images).last_hidden_state[:, 0]
            return Result(hidden.numpy(), logits=model(images).logits.numpy())
        if kind == "encoder":
            return Result(model(images).last_hidden_state[:, 0].numpy())
        noise = np.zeros((2, 4), np.float32)
        np.put_along_axis(noise, removed, 1, axis=1)
        logits = model(images, noise=torch.from_numpy(noise)).logits.numpy()
        model.config.mask_ratio = 0.0
        every = model.vit(images, noise=torch.zeros(2, 4)).last_hidden_state[:, 1:].mean(dim=1).numpy()
        model.config.mask_ratio = 0.5
        return Result(every, np.take_along_axis(logits, removed[..., None], axis=1))


@dataclass(frozen=True)
class Folder:
    """A Hugging Face folder, as `weights.open` will hand it over."""

    path: Path

    def read(self, **arguments: Any) -> Imported:
        extras = {}
        if (self.path / "preprocessor_config.json").is_file():
            extras["preprocessor_config.json"] = json.loads((self.path / "preprocessor_config.json").read_text())
        tensors = load_file(self.path / "model.safetensors")
        return import_weights(tensors, config=self.config(), extras=extras, **arguments)

    def config(self) -> dict[str, Any]:
        return json.loads((self.path / "config.json").read_text())

    def write(self, exported: Exported) -> None:
        save_file(exported.tensors, self.path / "model.safetensors", metadata={"format": "pt"})
        for name, content in {"config.json": exported.config, **exported.files}.items():
            (self.path / name).write_text(json.dumps(content))


def model_of(name: str, **more: Any) -> Any:
    config = transformers.ViTMAEConfig if "MAE" in name else transformers.ViTConfig
    shape = SHAPE | DECODER | dict(mask_ratio=0.5) if "MAE" in name else SHAPE | dict(num_labels=5)
    return draw(getattr(transformers, name)(config(**(shape | more))), large_tokens="layer_norm_eps" in more)


MODELS = {
    "ViTMAEForPreTraining": ("mae", {}),
    "ViTMAEForPreTraining, normalised": ("mae", dict(norm_pix_loss=True)),
    "ViTMAEForPreTraining, no bias": ("mae", dict(qkv_bias=False)),
    "ViTMAEForPreTraining, their epsilon": ("mae", dict(layer_norm_eps=1e-12)),
    "ViTModel": ("encoder", {}),
    "ViTForImageClassification": ("classifier", {}),
    "ViTForImageClassification, named": (
        "classifier",
        dict(id2label={number: f"kind {number}" for number in range(5)}),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_saves_is_read(name: str, tmp_path: Path) -> None:
    kind, more = MODELS[name]
    model = model_of(name.split(",")[0], **more)
    model.save_pretrained(tmp_path)
    folder = Folder(tmp_path)
    source = folder.read()
    assert source.kind == kind and source.layout == "transformers"
    assert max(differences(our_result(source, ANY), their_result(model, kind)).values()) <= TOLERANCE
    assert source.architecture.get("norm_pix_loss", False) is more.get("norm_pix_loss", False)
    assert source.classes == list(more.get("id2label", {}).values())
    names = list(source.left_over)
    assert all(name.startswith("pooler.") for name in names) and bool(names) == (name == "ViTModel")


@pytest.mark.parametrize("name", ["ViTMAEForPreTraining", "ViTModel", "ViTForImageClassification"])
def test_names_in_memory_are_read_too(name: str) -> None:
    """As `torch.save(model.state_dict())` writes them; no configuration file is written."""
    kind, _ = MODELS[name]
    model = model_of(name)
    tensors = {key: value.numpy() for key, value in model.state_dict().items()}
    source = import_weights(tensors, heads=4, decoder_heads=2)
    assert max(differences(our_result(source, ANY), their_result(model, kind)).values()) <= TOLERANCE


@pytest.mark.parametrize(
    "case",
    [
        "official: pretrained",
        "paddlevit: MAE",
        "transformers: no bias",
        "official: fine-tuned, cls",
        "probe",
        "encoder",
    ],
)
def test_what_is_written_loads_into_transformers_and_comes_back(case: str, tmp_path: Path) -> None:
    held = CASES[case if ":" in case else f"official: {case}"]
    source = import_weights(held.tensors, config=held.config, **held.arguments)
    folder = Folder(tmp_path)
    names = [f"kind {number}" for number in range(5)] if source.kind == "classifier" else []
    folder.write(
        export_weights(
            "transformers", source.kind, source.architecture, source.tensors, mean=MEAN, std=STD, classes=names
        )
    )
    kind = getattr(transformers, folder.config()["architectures"][0])
    model, loading = kind.from_pretrained(tmp_path, output_loading_info=True)
    missing = {"pooler.dense.weight", "pooler.dense.bias"} if source.kind == "encoder" else set()
    assert {key: set(value) for key, value in loading.items() if value} == (
        {"missing_keys": missing} if missing else {}
    )
    if source.kind == "mae":
        model.config.mask_ratio = 0.5
    assert max(differences(our_result(source, ANY), their_result(model.eval(), source.kind)).values()) <= TOLERANCE
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    assert list(processor.image_mean) == MEAN and dict(processor.size) == {"height": 8, "width": 8}
    again = folder.read()
    assert again.mean == MEAN and again.std == STD and again.classes == names
    model.save_pretrained(tmp_path)
    theirs = folder.read()
    for other in (again, theirs):
        assert other.architecture == source.architecture
        for key, array in source.tensors.items():
            np.testing.assert_array_equal(array, other.tensors[key], err_msg=key)


def timm_or_skip() -> Any:
    """timm is no part of the extra: it needs torchvision, whose builds fit one PyTorch each."""
    return pytest.importorskip("timm", exc_type=ImportError)


TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "encoder": ("encoder", dict(num_classes=0)),
    "token": ("classifier", dict(num_classes=5)),
    "avg": ("classifier", dict(num_classes=5, global_pool="avg")),
    "no bias": ("classifier", dict(num_classes=5, qkv_bias=False)),
}


def timm_result(model: Any, kind: str) -> Result:
    with torch.no_grad():
        images = torch.from_numpy(images_of(ANY))
        features = model.forward_head(model.forward_features(images), pre_logits=True).numpy()
        return Result(features, logits=model(images).numpy() if kind == "classifier" else None)


@pytest.mark.parametrize("name", TIMM)
def test_timm_both_ways(name: str, tmp_path: Path) -> None:
    timm = timm_or_skip()
    kind, more = TIMM[name]
    shape = dict(img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=4, mlp_ratio=2.0)
    model = draw(timm.create_model("vit_base_patch16_224", **shape, **more))
    timm.models.save_for_hf(model, tmp_path, model_args=shape | more, safe_serialization=True)
    folder = Folder(tmp_path)
    source = folder.read()
    assert source.kind == kind and source.layout == "timm"
    assert max(differences(our_result(source, ANY), timm_result(model, kind)).values()) <= TOLERANCE

    written = export_weights("timm", kind, source.architecture, source.tensors, mean=MEAN, std=STD)
    folder.write(written)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert max(differences(our_result(source, ANY), timm_result(theirs, kind)).values()) <= TOLERANCE
    assert theirs.pretrained_cfg["mean"] == MEAN and theirs.pretrained_cfg["num_classes"] == theirs.num_classes
    again = folder.read()
    assert again.mean == MEAN and again.architecture == source.architecture
    for key, array in source.tensors.items():
        np.testing.assert_array_equal(array, again.tensors[key], err_msg=key)


def test_timm_loads_the_encoder_of_an_autoencoder(tmp_path: Path) -> None:
    timm = timm_or_skip()
    held = CASES["official: pretrained"]
    source = import_weights(held.tensors, **held.arguments)
    written = export_weights("timm", "mae", source.architecture, source.tensors, mean=MEAN, std=STD)
    Folder(tmp_path).write(written)
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    encoder = import_weights(written.tensors, config=written.config)
    assert encoder.kind == "encoder"
    assert max(differences(our_result(encoder, ANY), timm_result(model, "encoder")).values()) <= TOLERANCE


@pytest.mark.parametrize("patch", [(6, 8), (2, 3), (3, 6)])
def test_patches_are_resized_as_timm_does(patch: tuple[int, int]) -> None:
    timm_or_skip()
    from timm.layers.patch_embed import resample_patch_embed

    held = CASES["official: pretrained"]
    source = import_weights(held.tensors, **held.arguments)
    wanted = resample_patch_embed(torch.from_numpy(source.tensors["patch_embed.proj.weight"]), list(patch)).numpy()
    got = change_patch_size(source.tensors, source.architecture, patch).tensors["patch_embed.proj.weight"]
    np.testing.assert_allclose(got, wanted, atol=1e-4 * np.abs(wanted).max())


def test_antialiased_cubic_weights_are_pytorchs() -> None:
    from paddlemae.weights.adapt import cubic_weights

    for old, new in [(4, 6), (6, 4), (16, 8), (14, 16), (5, 5)]:
        picture = torch.eye(old).reshape(old, 1, 1, old)
        wanted = torch.nn.functional.interpolate(picture, size=(1, new), mode="bicubic", antialias=True)
        np.testing.assert_allclose(
            cubic_weights(old, new, antialias=True), wanted.numpy().reshape(old, new).T, atol=1e-6
        )


def test_a_resized_model_is_what_transformers_interpolates(tmp_path: Path) -> None:
    held = CASES["transformers: ViTForImageClassification"]
    source = import_weights(held.tensors, config=held.config)
    adapted = change_image_size(source.tensors, source.architecture, (12, 16))
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(source.tensors["pos_embed"][:, 1:].reshape(1, 2, 2, 16).transpose(0, 3, 1, 2)),
        size=(3, 4),
        mode="bicubic",
        align_corners=False,
    )
    got = adapted.tensors["pos_embed"][:, 1:].reshape(1, 3, 4, 16).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)


def test_layouts_of_real_classes_are_recognised() -> None:
    for name in MODELS:
        state = model_of(name.split(",")[0]).state_dict()
        assert recognise({key: tuple(value.shape) for key, value in state.items()}) == "transformers"
