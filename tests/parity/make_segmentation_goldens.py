"""The PyTorch side of segmenters: transformers' BeitForSemanticSegmentation in float32 on CPU. Needs no Paddle model.

python -m tests.parity.make_segmentation_goldens  # rewrites tests/goldens/segmentation-*.npz
"""

from __future__ import annotations

import numpy as np
import torch
import transformers

from tests.parity import segmentation


def build(case: segmentation.Case) -> transformers.BeitForSemanticSegmentation:
    config = transformers.BeitConfig(
        image_size=case.image_size,
        patch_size=case.patch_size,
        hidden_size=case.embed_dim,
        num_hidden_layers=case.depth + 1,  # it cannot tap the last one
        num_attention_heads=case.num_heads,
        intermediate_size=4 * case.embed_dim,
        num_labels=case.num_classes,
        out_indices=[block + 1 for block in range(1, case.depth + 1)],  # it counts the embedding as the first
        use_absolute_position_embeddings=True,
        use_relative_position_bias=case.relative_positions,
        layer_scale_init_value=0.0,
        drop_path_rate=0.0,
        layer_norm_eps=1e-6,
        auxiliary_loss_weight=segmentation.AUXILIARY_WEIGHT,
        semantic_loss_ignore_index=segmentation.IGNORED,
        attn_implementation="eager",
    )
    model = transformers.BeitForSemanticSegmentation(config)
    with torch.no_grad():
        for name, tensor in state(model, case).items():
            tensor.copy_(torch.from_numpy(segmentation.initial(case, name, tuple(tensor.shape))))
    return model


def state(model: torch.nn.Module, case: segmentation.Case) -> dict[str, torch.Tensor]:
    """Return what has an effect: neither the block behind the last tap nor counters."""
    unread = (f"beit.layers.{case.depth}.", "beit.layernorm.")
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(unread) and not name.endswith("num_batches_tracked")
    }


def run(case: segmentation.Case) -> dict[str, np.ndarray]:
    """Return logits of the image's size, the loss and every gradient, in training and then in evaluation mode."""
    model = build(case)
    images = torch.from_numpy(segmentation.images_BCHW(case))
    labels = torch.from_numpy(segmentation.labels_BHW(case))
    # of the initial values the shapes alone
    numbers = {f"state:{name}": np.zeros(tuple(tensor.shape), bool) for name, tensor in state(model, case).items()}
    for mode in segmentation.MODES:
        model.train(mode == "train")
        output = model(pixel_values=images, labels=labels)
        output.loss.backward()
        logits = torch.nn.functional.interpolate(
            output.logits, size=images.shape[2:], mode="bilinear", align_corners=False
        )
        numbers |= {f"{mode} logits": as_numpy(logits), f"{mode} loss": as_numpy(output.loss)}
        for name, tensor in state(model, case).items():
            if tensor.grad is not None:
                numbers[f"{mode} gradient:{name}"] = as_numpy(tensor.grad)
        model.zero_grad()
    return numbers


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def main() -> None:
    for name in segmentation.GOLDEN_CASES:
        path = segmentation.golden(name)
        numbers = run(segmentation.CASES[name])  # gradients take most of the room: those in training alone
        numbers = {key: array for key, array in numbers.items() if not key.startswith("eval gradient")}
        np.savez_compressed(path, **numbers)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
