"""The paper: positions, masks, the ViT and the masked autoencoder. Knows no recipe and no disk."""

from paddlemae.engine import device

device.load_paddle()
