"""Classify gray or RGB images with what `paddlemae export --to onnx` wrote: NumPy, Pillow and onnxruntime do.

python classify.py MODEL.onnx IMAGE...
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) < 3:
    sys.exit(__doc__)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
height, width = facts["image_size"]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if facts["channels"] == 3 else "L")
    border = (1 - facts["eval_crop_ratio"]) / 2  # a side, which evaluation leaves off
    image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC, border)
    pixels = np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)
    (logits,) = session.run(None, {"images": pixels[None]})
    chances = np.exp(logits[0] - logits[0].max())
    print(f"{path}: {facts['labels'][chances.argmax()]} ({chances.max() / chances.sum():.1%})")
