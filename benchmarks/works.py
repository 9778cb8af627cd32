"""Define what is measured: models, sides, works and their targets. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

Run = dict[str, Any]  # what a process measured, see `worker.run`
MLP_RATIO, CHANNELS, NUM_CLASSES = 4, 3, 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BETAS, WEIGHT_DECAY, LR = (0.9, 0.95), 0.05, 1e-4
PIXEL_CLASSES, AUXILIARY_WEIGHT = 150, 0.4  # of a segmenter: ADE20K's, and MAE's after mmsegmentation

VIT_DECODER = dict(decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16)  # MAE, sec. 4.1
# In proportion to its encoder, as the known small MAEs have it; with the paper's decoder ("tiny-512") nearly all of
# ViT-Tiny's step is the decoder's.
TINY_DECODER = dict(decoder_embed_dim=192, decoder_depth=4, decoder_num_heads=3)
MINI_DECODER = dict(decoder_embed_dim=96, decoder_depth=2, decoder_num_heads=4)
TINY = dict(image_size=224, patch_size=16, embed_dim=192, depth=12, num_heads=3)  # DeiT, table 1
MODELS: dict[str, dict[str, int]] = {
    "mini": dict(image_size=32, patch_size=4, embed_dim=128, depth=4, num_heads=4, **MINI_DECODER),  # recipe cifar10's
    "tiny": TINY | TINY_DECODER,
    "tiny-512": TINY | VIT_DECODER,
    "small": dict(image_size=224, patch_size=16, embed_dim=384, depth=12, num_heads=6, **VIT_DECODER),
    "base": dict(image_size=224, patch_size=16, embed_dim=768, depth=12, num_heads=12, **VIT_DECODER),
}
MODEL_TITLES = {
    "mini": "small, 32 px, patch 4",
    "tiny": "ViT-Tiny/16",
    "tiny-512": "ViT-Tiny/16, wide decoder",
    "small": "ViT-Small/16",
    "base": "ViT-Base/16",
}


@dataclass(frozen=True)
class Job:
    """What one process does: one side, one work, one configuration.

    Attributes:
        task: a key of the side's `TASKS`.
        side: a key of `SIDES`.
        model: a key of `MODELS`; for "products" also "square".
        batch: images a step.
        image_size: pixels; 0 is the model's own.
        mask_ratio: of pretraining.
        threads: CPU threads; sides that run as installed choose their own.
        warmup: steps that are run and not counted.
        min_steps, min_seconds: counted steps go on until both are reached.
        photos: folder of image files, for the input pipeline.
        isa: a key of `ISAS`, which limits the instructions that products use; "" is all that the processor has.
    """

    task: str
    side: str
    model: str = "tiny"
    batch: int = 32
    image_size: int = 0
    mask_ratio: float = 0.75
    threads: int = 1
    warmup: int = 2
    min_steps: int = 3
    min_seconds: float = 5.0
    photos: str = ""
    isa: str = ""

    @property
    def shape(self) -> dict[str, int]:
        """The model's shape at this job's image size."""
        shape = MODELS[self.model]
        return {**shape, "image_size": self.image_size or shape["image_size"]}


@dataclass(frozen=True)
class Side:
    """One of the programs that are compared.

    Attributes:
        title: for people.
        module: the file of `benchmarks` that runs it.
        options: what tells it from its module's other sides.
        environment: variables set for the process; it inherits none of Paddle's, MKL's or OpenMP's.
        once: it is so far behind that one process of few steps tells all, see `BRIEF`.
    """

    title: str
    module: str
    options: dict[str, object] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    once: bool = False


BRIEF = dict(warmup=1, min_steps=2, min_seconds=0.0)  # fields of such a side's job
# Without these two Paddle multiplies on one core, and its MKL takes a slow path on AMD processors
PLAIN_TUNED = {"MKL_DEBUG_CPU_TYPE": "5", "OMP_NUM_THREADS": "{threads}"}
# Variables that keep every side to older instructions: oneDNN (in Paddle and in PyTorch), MKL, ATen and torch.compile.
# Paddle's own operations and NumPy have no such limit; they do no products.
ISAS: dict[str, dict[str, str]] = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",
    }
}
SIDES: dict[str, Side] = {
    "ours": Side("PaddleMAE", "ours"),
    "ours-cross": Side("PaddleMAE, CrossMAE decoder", "ours", {"cross": True}),
    "ours-recompute": Side("PaddleMAE, recompute", "ours", {"recompute": True}),
    "ours-bfloat16": Side("PaddleMAE, bfloat16", "ours", {"precision": "bfloat16"}),
    "ours-one": Side("PaddleMAE, one process of one thread", "ours"),
    "ours-two": Side("PaddleMAE, two processes of one thread", "processes", {"processes": 2}),
    "engine": Side("Paddle's inference engine", "engine"),
    "engine-onednn": Side("Paddle's inference engine, oneDNN", "engine", {"onednn": True}),
    "torch-sdpa": Side("transformers, sdpa attention", "torch_peer", {"attention": "sdpa"}),
    "torch-eager": Side("transformers, eager attention", "torch_peer", {"attention": "eager"}),
    "torch-compile": Side("transformers, torch.compile", "torch_peer", {"attention": "sdpa", "compile": True}),
    "torch-bfloat16": Side(
        "transformers, bfloat16 autocast", "torch_peer", {"attention": "sdpa", "precision": "bfloat16"}
    ),
    "torch-bfloat16-compile": Side(
        "transformers, bfloat16 autocast, torch.compile",
        "torch_peer",
        {"attention": "sdpa", "precision": "bfloat16", "compile": True},
    ),
    "plain": Side("plain Paddle, as installed", "plain_paddle", once=True),
    "plain-tuned": Side("plain Paddle, environment set", "plain_paddle", {}, PLAIN_TUNED, once=True),
    "input": Side("PaddleMAE", "input_pipeline", {"chain": "ours"}),
    "input-packed": Side("PaddleMAE, packed cache", "input_pipeline", {"chain": "packed"}),
    "input-pillow": Side("Pillow chain", "input_pipeline", {"chain": "pillow"}),
    "help": Side("paddlemae --help", "startup", {"arguments": ["-m", "paddlemae", "--help"]}),
    "import-paddlemae": Side("import paddlemae", "startup", {"arguments": ["-c", "import paddlemae"]}),
    "import-paddle": Side("import paddle", "startup", {"arguments": ["-c", "import paddle"]}),
    "import-torch": Side("import torch", "startup", {"arguments": ["-c", "import torch"]}),
}
SECTIONS = (
    "limit",
    "pretrain",
    "processes",
    "classify",
    "features",
    "segment",
    "memory",
    "input",
    "end-to-end",
    "startup",
    "sweep",
)
NOT_ON_PAGE = ("segment", "end-to-end")  # sections that docs/speed.md may lack
TORCH = ("torch-sdpa", "torch-eager", "torch-compile")
TORCH_EAGER = ("torch-sdpa", "torch-eager")
TORCH_BFLOAT16 = ("torch-bfloat16", "torch-bfloat16-compile")
BFLOAT16 = ("ours-bfloat16", *TORCH_BFLOAT16)  # sides that a processor without such instructions skips
IN_BFLOAT16 = ("small", "base")  # models
PRETRAIN_SIDES = ("ours", "ours-cross", *TORCH)
PLAIN = ("plain", "plain-tuned")


@dataclass(frozen=True)
class Target:
    """A ratio or a time that one side must reach.

    Attributes:
        side: whose result it is about.
        against: sides, of which the best stands for all.
        limit: the smallest ratio allowed, or the largest where less is better.
        aim: what is hoped for.
    """

    side: str
    against: tuple[str, ...]
    limit: float
    aim: float | None = None


@dataclass(frozen=True)
class Work:
    """A row of the table.

    Attributes:
        name: its key in the results.
        section: one of `SECTIONS`.
        job: what its sides do, but for the side and how often.
        quantity: "images/s" and "GFLOP/s" (more is better), "ms", "s" and "GB" (less is better).
        quick: sides that are enough for `QUICK=1`.
        repeats: processes a side.
    """

    name: str
    section: str
    title: str
    job: Job
    sides: tuple[str, ...]
    quantity: str
    targets: tuple[Target, ...] = ()
    quick: tuple[str, ...] = ()
    repeats: int = 1


def _pretrain(model: str, batch: int, plain: float | None = None) -> Work:
    targets = [Target("ours", TORCH, 1.0, 1.25), Target("ours-cross", TORCH, 1.4)]
    targets += [Target("ours", ("plain",), plain)] if plain else []
    halves = BFLOAT16 if model in IN_BFLOAT16 else ()
    targets += [Target("ours-bfloat16", TORCH_BFLOAT16, 1.1, 1.25)] if halves else []
    targets += [Target("ours-bfloat16", ("ours",), 1.55)] if model == "base" else []
    return Work(
        name=f"pretrain-{model}-{batch}",
        section="pretrain",
        title=f"{MODEL_TITLES[model]}, batch {batch}",
        job=Job("pretrain", "", model, batch),
        sides=PRETRAIN_SIDES + halves + (PLAIN if plain else ()),
        quantity="images/s",
        targets=tuple(targets),
        quick=("ours", "ours-cross", "torch-sdpa", *halves[:2], *(("plain",) if plain else ())),
        repeats=2 if model in ("small", "base") else 3,
    )


def _classify(model: str, batch: int) -> Work:
    return Work(
        name=f"classify-{model}-{batch}",
        section="classify",
        title=f"{MODEL_TITLES[model]}, batch {batch}",
        job=Job("classify", "", model, batch, warmup=1),
        sides=("ours", *TORCH) if model == "tiny" else ("ours", "torch-sdpa"),
        quantity="images/s",
        quick=("ours", "torch-sdpa"),
        repeats=2,
    )


def _features(batch: int, quantity: str) -> Work:
    return Work(
        name=f"features-base-{batch}",
        section="features",
        title=f"ViT-Base/16, batch {batch}" + (", latency" if quantity == "ms" else ""),
        job=Job("features", "", "base", batch),
        sides=("ours", "engine", "engine-onednn", *TORCH, *BFLOAT16),
        quantity=quantity,
        targets=(
            Target("ours", TORCH_EAGER, 1.0, 1.15),
            Target("ours-bfloat16", TORCH_BFLOAT16[:1], 1.25 if quantity == "images/s" else 1.0),
        ),
        quick=("ours", "engine", "engine-onednn", "torch-sdpa", *BFLOAT16[:2]),
        repeats=3,
    )


def _segment(task: str, title: str) -> Work:
    return Work(
        name=f"{task}-base-2",
        section="segment",
        title=f"{title}, ViT-Base/16 with UPerNet, 512 px, batch 2",
        job=Job(task, "", "base", 2, image_size=512, warmup=1, min_steps=2, min_seconds=0),
        sides=("ours", *TORCH_EAGER),
        quantity="images/s",
        targets=(Target("ours", TORCH_EAGER, 1.0),),
        quick=("ours", "torch-sdpa"),
        repeats=2,
    )


MEMORY = Work(
    name="memory-base-16",
    section="memory",
    title="pretraining step, ViT-Base/16, batch 16",
    job=Job("memory", "", "base", 16, warmup=1, min_steps=2, min_seconds=0),
    sides=("ours", "ours-recompute", "ours-cross", *TORCH_EAGER, *BFLOAT16[:2]),
    quantity="GB",
    targets=(
        Target("ours", TORCH_EAGER, 1.0),
        Target("ours-recompute", TORCH_EAGER, 0.6),
        Target("ours-bfloat16", TORCH_BFLOAT16[:1], 0.9),
    ),
    quick=("ours", "ours-recompute", "torch-sdpa", *BFLOAT16[:2]),
)
PROCESSES = Work(
    name="processes-base-16",
    section="processes",
    title="pretraining step, ViT-Base/16, batch 16",
    job=Job("pretrain", "", "base", 16, warmup=1, min_steps=3, min_seconds=0),
    sides=("ours-one", "ours-two"),
    quantity="images/s",
    targets=(Target("ours-two", ("ours-one",), 1.7),),
    quick=("ours-one", "ours-two"),
    repeats=2,
)
INPUT = Work(
    name="input-224",
    section="input",
    title="JPEG photos to training batches of 224 px, one core",
    job=Job("input", "", "base", 64, warmup=1),
    sides=("input", "input-packed", "input-pillow"),
    quantity="images/s",
    targets=(Target("input", ("input-pillow",), 2.0), Target("input-packed", ("input-pillow",), 5.0)),
    quick=("input", "input-packed", "input-pillow"),
    repeats=2,
)
END_TO_END = Work(
    name="end-to-end-mini-128",
    section="end-to-end",
    title=f"JPEG files to trained weights, {MODEL_TITLES['mini']}, batch 128",
    job=Job("end-to-end", "", "mini", 128, warmup=20, min_steps=20, min_seconds=15),  # warm-up uses up the queue
    sides=("ours", *TORCH),
    quantity="images/s",
    targets=(Target("ours", TORCH, 1.3),),
    quick=("ours", "torch-sdpa"),
    repeats=3,
)
STARTUP = Work(
    name="startup",
    section="startup",
    title="wall time of a process",
    job=Job("startup", "", warmup=1, min_steps=3, min_seconds=0),
    sides=("help", "import-paddlemae", "import-paddle", "import-torch"),
    quantity="s",
    targets=(Target("help", (), 0.5),),
    quick=("help", "import-paddlemae", "import-paddle", "import-torch"),
)

# the machine itself, asked through both frameworks
LIMIT_SIDES = ("torch-sdpa", "plain-tuned")
PRETRAINED = (("tiny", 32), ("small", 16), ("base", 16), ("mini", 256), ("tiny-512", 32))
ON_REQUEST = ("tiny-512",)  # models that are measured only where --models names them
PLAIN_FACTOR = {"tiny": 3.5, "base": 2.0}  # how many times faster than plain Paddle we must be

SWEEP_SIDES = ("ours", "torch-sdpa")
SWEEP_BASE = Job("pretrain", "", "tiny", 16, image_size=224, warmup=1, min_seconds=2)
SWEEPS: dict[str, tuple[Any, ...]] = {
    "batch": (4, 8, 16, 32, 64),
    "image_size": (96, 160, 224, 288, 384),
    "mask_ratio": (0.25, 0.5, 0.75, 0.9),
}


def _sweep_works(cores: int) -> list[Work]:
    """Return one work per point; the point that all sweeps share is measured once, as "sweep-base"."""
    base = replace(SWEEP_BASE, threads=cores)
    jobs = {"sweep-base": base}
    for setting, points in {**SWEEPS, "threads": thread_counts(cores)}.items():
        for value in points:
            job = replace(base, **{setting: value})
            jobs |= {f"sweep-{setting}-{value}": job} if job != base else {}
    return [Work(name, "sweep", name, job, SWEEP_SIDES, "images/s") for name, job in jobs.items()]


def works(cores: int) -> dict[str, Work]:
    """Return every work of this benchmark by name, for a machine with `cores` cores."""
    listed = [
        *_limit_works(cores),
        *(_pretrain(model, batch, PLAIN_FACTOR.get(model)) for model, batch in PRETRAINED),
        _classify("tiny", 32),
        _classify("base", 8),
        _features(16, "images/s"),
        _features(1, "ms"),
        _segment("segment", "training step"),
        _segment("predict-masks", "prediction"),
        MEMORY,
        PROCESSES,
        INPUT,
        END_TO_END,
        STARTUP,
        *_sweep_works(cores),
    ]
    fixed = ("limit", "sweep", "processes")  # these name their threads themselves
    return {work.name: work if work.section in fixed else _threaded(work, cores) for work in listed}


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return 1, 2, 4 ... and the number of cores."""
    return tuple(sorted({threads for threads in (1, 2, 4, 8, 16, 32, 64) if threads < cores} | {cores}))


def _limit_works(cores: int) -> list[Work]:
    """Return large products with each number of threads, and the products of each pretraining step."""
    squares = [Job("products", "", "square", 1, threads=threads) for threads in thread_counts(cores)]
    jobs = {f"limit-square-{job.threads}": job for job in squares}
    jobs |= {f"limit-{model}-{batch}": Job("products", "", model, batch, threads=cores) for model, batch in PRETRAINED}
    return [Work(name, "limit", name, job, LIMIT_SIDES, "GFLOP/s", quick=LIMIT_SIDES) for name, job in jobs.items()]


def _threaded(work: Work, cores: int) -> Work:
    return replace(work, job=replace(work.job, threads=cores))
