"""Run what `paddlemae export` wrote on images, without PaddleMAE: NumPy, Pillow and onnxruntime or paddlepaddle do.

python run_exported.py MODEL.onnx|FOLDER IMAGE...
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def load_onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # an image a thread is faster than all threads at every product
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}

    def run(**inputs):
        images = [dict(zip(inputs, (array[None] for array in arrays))) for arrays in zip(*inputs.values())]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda image: session.run(None, image), images)
            return [np.concatenate(outputs) for outputs in zip(*found)]

    return facts, run


def load_paddle(folder):
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and "AuthenticAMD" in cpu.read_text():
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")  # else Paddle's MKL doesn't use AVX2 there
    from paddle import inference

    config = inference.Config(f"{folder}/inference.json", f"{folder}/inference.pdiparams")
    config.disable_mkldnn()  # with oneDNN Paddle 3.3.1 is no faster, and not always right
    predictor = inference.create_predictor(config)

    def run(**inputs):
        for name, array in inputs.items():
            predictor.get_input_handle(name).copy_from_cpu(array)
        predictor.run()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]

    return json.loads(Path(folder, "metadata.json").read_text()), run


def view(path, facts):
    """The middle of an image, as the model was evaluated on: uint8 [C, H, W]."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB" if facts["channels"] == 3 else "L")
    height, width = facts["image_size"]
    h, w = (round(side / facts["eval_crop_ratio"]) for side in (height, width))
    size = max(w, h * image.width // image.height), max(h, w * image.height // image.width)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    image = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
    return np.asarray(image).reshape(height, width, -1).transpose(2, 0, 1)


def main(model, *paths):
    facts, run = load_onnx(model) if model.endswith(".onnx") else load_paddle(model)
    images = np.stack([view(path, facts) for path in paths])
    if facts["what"] == "reconstructor":
        grid = facts["inputs"][1]["shape"][1:]
        order = np.random.default_rng(0).permutation(grid[0] * grid[1]).reshape(grid)
        mask = np.broadcast_to(order >= max(1, order.size // 4), (len(images), *grid))  # 1 = removed
        completed, _ = run(images=images, mask=np.ascontiguousarray(mask, np.uint8))
        for path, picture in zip(paths, (completed.clip(0, 1) * 255).round().astype(np.uint8)):
            pixels = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
            Image.fromarray(pixels).save(f"{Path(path).stem}-completed.png")
    elif facts["what"] == "classifier":
        (logits,) = run(images=images)
        for path, row in zip(paths, logits):
            chances = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            print(f"{path}: {facts['labels'][row.argmax()]} ({chances.max():.1%})")
    else:
        (features,) = run(images=images)
        np.save("features.npy", features)


if __name__ == "__main__":
    main(*sys.argv[1:])
