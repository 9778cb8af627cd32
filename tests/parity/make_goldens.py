"""The PyTorch side: transformers' ViTMAEForPreTraining in float32 on CPU. Needs no Paddle.

python -m tests.parity.make_goldens  # rewrites tests/goldens
"""

from __future__ import annotations

import numpy as np
import torch
import transformers
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from tests.parity import cases


def run(case: cases.Case) -> dict[str, np.ndarray]:
    """Every number that is compared.

    Returns:
        `mask`, `prediction`, `loss` and `gradient:NAME` of the first step, before it moves anything;
        `weight:NAME` and `trained_prediction` (of the first step's masks) after the last;
        `positions:NAME`, the fixed tables.
    """
    model = build(case)
    optimizer = adamw(model)
    pixels = torch.from_numpy(cases.images_BCHW(case))
    numbers = {f"positions:{name}": as_numpy(value) for name, value in tables(model).items()}
    for step, noise_BL in enumerate(cases.noise_SBL(case)):
        optimizer.zero_grad()
        output = model(pixel_values=pixels, noise=torch.from_numpy(noise_BL))
        output.loss.backward()
        if step == 0:
            numbers |= {"mask": as_numpy(output.mask).astype(bool)}
            numbers |= {"prediction": as_numpy(output.logits), "loss": as_numpy(output.loss)}
            numbers |= {f"gradient:{name}": as_numpy(value.grad) for name, value in trained(model).items()}
        for group in optimizer.param_groups:
            group["lr"] = cases.lr_of_step(step)
        optimizer.step()
    with torch.no_grad():
        output = model(pixel_values=pixels, noise=torch.from_numpy(cases.noise_SBL(case)[0]))
    numbers |= {"trained_prediction": as_numpy(output.logits)}
    return numbers | {f"weight:{name}": as_numpy(value) for name, value in trained(model).items()}


def build(case: cases.Case) -> transformers.ViTMAEForPreTraining:
    config = transformers.ViTMAEConfig(
        image_size=case.image_size,
        patch_size=case.patch_size,
        num_channels=case.channels,
        hidden_size=case.embed_dim,
        num_hidden_layers=case.depth,
        num_attention_heads=case.num_heads,
        intermediate_size=int(case.embed_dim * case.mlp_ratio),
        decoder_hidden_size=case.decoder_embed_dim,
        decoder_num_hidden_layers=case.decoder_depth,
        decoder_num_attention_heads=case.decoder_num_heads,
        decoder_intermediate_size=int(case.decoder_embed_dim * case.mlp_ratio),
        mask_ratio=cases.MASK_RATIO,
        norm_pix_loss=case.norm_pix_loss,
        layer_norm_eps=1e-6,  # the official MAE's; transformers' own default is 1e-12
        attn_implementation="eager",
    )
    model = transformers.ViTMAEForPreTraining(config)
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter.copy_(torch.from_numpy(cases.weight(name, parameter.shape)))
        for table in tables(model).values():
            table.copy_(positions(case.grid, table.shape[-1]))
    # its patchify refuses images that aren't square, for no reason of its own, unless this flag is set
    cut = model.patchify
    model.patchify = lambda pixels, interpolate_pos_encoding: cut(pixels, interpolate_pos_encoding=True)
    return model


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def tables(model: transformers.ViTMAEForPreTraining) -> dict[str, torch.nn.Parameter]:
    return {"pos_embed": model.vit.embeddings.position_embeddings, "decoder_pos_embed": model.decoder.decoder_pos_embed}


def positions(grid: tuple[int, int], width: int) -> torch.Tensor:
    """transformers' table [1, 1 + L, D], halves swapped as in its `initialize_weights`, which 5.23 skips."""
    rows_first = build_2d_sinusoidal_position_embedding(*grid, embed_dim=width, cls_token=True)
    return rows_first.roll(width // 2, dims=-1)[None]


def adamw(model: torch.nn.Module) -> torch.optim.AdamW:
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for name, parameter in trained(model).items():
        groups[cases.is_matrix(name, parameter.shape)].append(parameter)
    decay = [
        {"params": groups[True], "weight_decay": cases.WEIGHT_DECAY},
        {"params": groups[False], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(decay, lr=0.0, betas=cases.BETAS, eps=cases.EPSILON)


def resized(old_grid: tuple[int, int], new_grid: tuple[int, int]) -> np.ndarray:
    """A position table [L, D] resized as ViT codes in PyTorch do it."""
    picture = torch.from_numpy(cases.table_LD(old_grid)).T.reshape(1, -1, *old_grid)
    picture = torch.nn.functional.interpolate(picture, size=new_grid, mode="bicubic", align_corners=False)
    return as_numpy(picture.flatten(2)[0].T)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def main() -> None:
    torch.manual_seed(0)
    cases.GOLDENS.mkdir(exist_ok=True)
    for name in cases.GOLDEN_CASES:
        path = cases.golden(name)
        np.savez_compressed(path, **run(cases.CASES[name]))
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")
    tables_LD = {f"{old}-{new}": resized(old, new) for old, new in cases.RESIZES}
    np.savez_compressed(cases.RESIZED_GOLDEN, **tables_LD)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
