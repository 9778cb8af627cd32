"""PaddleMAE against transformers' ViTMAEForPreTraining: same weights, same images, same noise."""
