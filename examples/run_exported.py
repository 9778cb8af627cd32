"""Run what `paddlemae export` wrote on images, without PaddleMAE: NumPy, Pillow and onnxruntime or paddlepaddle do.

python run_exported.py MODEL.onnx|FOLDER IMAGE...

A segmenter writes NAME-mask.png of each image: the class of every pixel, in the colours of its palette.
An image is a picture or, for models of other than 1 or 3 channels of 8 bits, a .npy array [C, H, W] of the right size.
Each core runs images of its own, which is faster than all cores at every product of one batch.
"""

import json
import multiprocessing
import os
import sys
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_ASPECT = 32  # evaluation first cuts longer images to this many times their short side


def load(path, cores, count):
    """Return (the file's metadata, a function that runs the model on `count` images, a pool to shut down at last)."""
    workers = min(cores, count)
    load_engine, most = (load_onnx, 1) if path.endswith(".onnx") else (load_paddle, 16)  # images in one call
    facts, pool, run_part = load_engine(path, workers, cores // workers)

    def run(**inputs):
        count = len(next(iter(inputs.values())))
        parts = -(-count // min(most, -(-count // workers)))
        each = [dict(zip(inputs, arrays)) for arrays in zip(*(np.array_split(x, parts) for x in inputs.values()))]
        return [np.concatenate(outputs) for outputs in zip(*pool.map(run_part, each))]

    return facts, run, pool


def load_onnx(path, workers, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    return facts, ThreadPoolExecutor(workers), lambda inputs: session.run(None, inputs)


def load_paddle(folder, workers, threads):
    facts = json.loads(Path(folder, "metadata.json").read_text())
    for name, value in {"TRIM_THRESHOLD_": 1 << 30, "TOP_PAD_": 1 << 26, "MMAP_MAX_": 0}.items():
        os.environ.setdefault(f"MALLOC_{name}", str(value))  # memory that is freed stays with its process
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and "AuthenticAMD" in cpu.read_text():
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")  # else Paddle's MKL doesn't use AVX2 there
    spawn = multiprocessing.get_context("spawn")  # Paddle's engine keeps Python's lock: threads would take turns
    return facts, ProcessPoolExecutor(workers, spawn, start_paddle, (folder, threads)), run_paddle


def start_paddle(folder, threads):
    global predictor
    warnings.filterwarnings("ignore", "No ccache found")  # each process would say it
    from paddle import inference

    config = inference.Config(f"{folder}/inference.json", f"{folder}/inference.pdiparams")
    config.disable_glog_info()
    config.disable_mkldnn()  # with oneDNN Paddle 3.3.1 is no faster, and not always right
    config.set_cpu_math_library_num_threads(threads)
    predictor = inference.create_predictor(config)


def run_paddle(inputs):
    for name, array in inputs.items():
        predictor.get_input_handle(name).copy_from_cpu(array)
    predictor.run()
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def view(path, facts, whole=False):
    """Return the centre crop of an image, as in evaluation, or all of it at its own size: [C, H, W]."""
    if path.endswith(".npy"):
        return np.load(path)
    if facts["channels"] not in (1, 3) or facts["bits"] != 8:
        shape = [facts["channels"], *facts["image_size"]]
        sys.exit(
            f"{path}: expected a .npy array {shape} of {facts['bits']} bits a value, got a picture; save it as one"
        )
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if whole:
        image = image.convert("RGB" if facts["channels"] == 3 else "L")
        return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)
    height, width = facts["image_size"]
    h, w = (round(side / facts["eval_crop_ratio"]) for side in (height, width))
    size = w, h
    if facts.get("fit", "crop") == "crop":
        image = middle(image, min(image.width, MAX_ASPECT * image.height), min(image.height, MAX_ASPECT * image.width))
        size = max(w, h * image.width // image.height), max(h, w * image.height // image.width)
    image = image.convert("RGB" if facts["channels"] == 3 else "L").resize(size, Image.Resampling.BICUBIC)
    return np.asarray(middle(image, width, height)).reshape(height, width, -1).transpose(2, 0, 1)


def middle(image, width, height):
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def windows(length, size):
    """Return where windows on a side begin, which overlap by a third at least, and their pixels' weights."""
    length = max(length, size)
    count = -(-(length - size) // max(1, round(size * 2 / 3))) + 1
    starts = np.arange(count) * (length - size) // max(1, count - 1)
    profile = np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    pixels = starts[:, None] + np.arange(size)
    return starts, profile / np.bincount(pixels.ravel(), np.tile(profile, count))[pixels]


def segment(run, image, size, dtype):
    """Return the logits of every pixel [K, H, W], from windows of the size that the model was trained with."""
    height, width = image.shape[1:]
    missing = [(0, max(0, wanted - side)) for wanted, side in zip(size, (height, width))]
    image = np.pad(image, [(0, 0), *missing], "reflect").astype(dtype)
    (tops, row_weights), (lefts, column_weights) = windows(height, size[0]), windows(width, size[1])
    total = 0
    for top, down in zip(tops, row_weights):
        parts = np.stack([image[:, top : top + size[0], left : left + size[1]] for left in lefts])
        (logits,) = run(images=parts)
        if isinstance(total, int):
            total = np.zeros((logits.shape[1], *image.shape[1:]), np.float32)
        for left, across, each in zip(lefts, column_weights, logits):
            total[:, top : top + size[0], left : left + size[1]] += each * np.outer(down, across).astype(np.float32)
    return total[:, :height, :width]


def write_mask(facts, run, path):
    logits = segment(run, view(path, facts, whole=True), facts["image_size"], facts["inputs"][0]["dtype"])
    mask = Image.fromarray(logits.argmax(axis=0).astype(np.uint8))
    if "palette" in facts:
        mask.putpalette(np.array(facts["palette"], np.uint8).tobytes())
    mask.save(f"{Path(path).stem}-mask.png")
    shares = np.bincount(logits.argmax(axis=0).ravel(), minlength=len(facts["labels"])) / logits[0].size
    named = sorted(zip(shares, facts["labels"]), reverse=True)
    print(f"{path}: {', '.join(f'{name} {share:.1%}' for share, name in named if share)}")


def main(model, *paths):
    facts, run, pool = load(model, os.cpu_count(), len(paths))
    with pool:
        show(facts, run, paths)


def show(facts, run, paths):
    if facts["what"] == "segmenter":
        for path in paths:
            write_mask(facts, run, path)
        return
    images = np.stack([view(path, facts) for path in paths]).astype(facts["inputs"][0]["dtype"])
    if facts["what"] == "reconstructor":
        grid = facts["inputs"][1]["shape"][1:]
        order = np.random.default_rng(0).permutation(grid[0] * grid[1]).reshape(grid)
        mask = np.broadcast_to(order >= max(1, order.size // 4), (len(images), *grid))  # 1 = removed
        completed, _ = run(images=images, mask=np.ascontiguousarray(mask, np.uint8))
        for path, image in zip(paths, completed):
            name = f"{Path(path).stem}-completed"
            if path.endswith(".npy"):
                np.save(f"{name}.npy", image)
                continue
            picture = (image.clip(0, 1) * 255).round().astype(np.uint8)
            Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).save(f"{name}.png")
    elif facts["what"] == "classifier":
        (logits,) = run(images=images)
        for path, row in zip(paths, logits):
            chances = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
            print(f"{path}: {facts['labels'][row.argmax()]} ({chances.max():.1%})")
    else:
        (features,) = run(images=images)
        np.save("features.npy", features)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
