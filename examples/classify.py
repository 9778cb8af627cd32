"""Classify gray or RGB images of 8 bits with what `paddlemae export --to onnx` wrote, seen as in evaluation.

NumPy, Pillow and onnxruntime do: python classify.py MODEL.onnx IMAGE...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def crop(image, h, w):
    return image.crop((x := round((image.width - w) / 2), y := round((image.height - h) / 2), x + w, y + h))


_, model, *paths = sys.argv if len(sys.argv) > 2 else sys.exit(__doc__)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
h, w = (round(side / facts["eval_crop_ratio"]) for side in facts["image_size"])
for path in paths:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image, size = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image), (w, h)
    if facts.get("fit", "crop") == "crop":
        image = crop(image, min(image.height, 32 * image.width), min(image.width, 32 * image.height))
        size = max(w, h * image.width // image.height), max(h, w * image.height // image.width)
    image = image.convert("RGB" if facts["channels"] == 3 else "L").resize(size, Image.Resampling.BICUBIC)
    (logits,) = session.run(None, {"images": np.atleast_3d(crop(image, *facts["image_size"])).transpose(2, 0, 1)[None]})
    print(f"{path}: {facts['labels'][logits.argmax()]} ({1 / np.exp(logits - logits.max()).sum():.1%})")
