"""Views of images: crops, flips and other augmentations, mixing and erasing."""
