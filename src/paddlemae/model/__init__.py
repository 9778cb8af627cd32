"""The paper: positions, masks, the ViT and the masked autoencoder. Knows no recipe and no disk."""
