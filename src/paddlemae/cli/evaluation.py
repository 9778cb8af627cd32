"""`paddlemae knn` and `paddlemae evaluate`: parse, import lazily, dispatch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Layer, MaxBadImages, Norm, Precision, Run, Token, Trust


def knn(
    run: Run,
    data: Annotated[
        str, typer.Option("--data", help="Labelled images: one folder per class, a list, shards ... or 'digits'.")
    ],
    token: Token = "mean",
    layer: Layer = None,
    norm: Norm = "layer",
    k: Annotated[
        list[int] | None, typer.Option("--k", help="Number of neighbours; repeatable; default 10, 20, 100 and 200.")
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Temperature of the weighted vote.")] = 0.07,
    bank: Annotated[str, typer.Option("--bank", help="The split whose labels are known: train or test.")] = "train",
    queries: Annotated[str, typer.Option("--queries", help="The split to classify: train or test.")] = "test",
    labels: Annotated[
        int | None, typer.Option("--labels", min=1, help="Use only this many labelled images, equally many per class.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed of --labels.")] = 0,
    random: Annotated[
        bool, typer.Option("--random", help="Use the same encoder with random weights, for comparison.")
    ] = False,
    masks: Annotated[
        bool, typer.Option("--masks", help="Images with masks: classify each patch by its nearest patches.")
    ] = False,
    precision: Precision = "float32",
    max_bad_images: MaxBadImages = 0.01,
    trust: Trust = False,
) -> None:
    """Classify images by their nearest labelled neighbours in a model's feature space (kNN).

    Examples:

    `paddlemae knn runs/photos --data labelled/`

    `paddlemae knn runs/digits --data digits --token cls --k 20 --k 50`

    `paddlemae knn runs/tiles --data tiles/ --masks --labels 20`
    """
    load_paddle()
    if masks:
        from paddlemae.tasks import knn_masks as of_patches

        if len(k or ()) > 1:
            raise ValueError("--masks takes one --k; leave the others out")
        of_patches.knn_masks(
            run,
            data,
            k=k[0] if k else of_patches.NEIGHBOURS,
            bank_split=bank,
            query_split=queries,
            labels=labels,
            seed=seed,
            random=random,
            precision=precision,
            max_bad_images=max_bad_images,
            say=lambda result: print(of_patches.result_text(result), flush=True),
            trust=trust,
        )
        return
    from paddlemae.tasks import knn as task
    from paddlemae.tasks.models.inference import FeatureKind

    task.knn(
        run,
        data,
        kind=FeatureKind(token, layer, norm, precision),
        neighbours=k or (),
        temperature=temperature,
        bank_split=bank,
        query_split=queries,
        labels=labels,
        seed=seed,
        random=random,
        max_bad_images=max_bad_images,
        say=lambda results: print(task.results_text(results), flush=True),
        trust=trust,
    )


def evaluate(
    run: Annotated[str, typer.Argument(help="A fine-tuning or segmentation run, or a file of classifier weights.")],
    data: Annotated[
        str, typer.Option("--data", help="Labelled images, or for a segmenter images with masks; as for the training.")
    ],
    split: Annotated[str, typer.Option("--split", help="train, test, val-only or test-only.")] = "test",
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="Height and width in pixels; default: the model's own.")
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option("--overlap", min=0, max=0.99, help="Of a segmenter: share of its side that windows share; 0.5."),
    ] = None,
    blend: Annotated[
        str | None,
        typer.Option("--blend", help="Of a segmenter: blend windows smooth (default), mean or centre."),
    ] = None,
    flips: Annotated[
        str | None,
        typer.Option("--flips", help="Of a segmenter: average flips: none (default), horizontal or both."),
    ] = None,
    scale: Annotated[
        list[float] | None,
        typer.Option("--scale", help="Of a segmenter: average over sizes of the image; repeatable; default 1."),
    ] = None,
    precision: Precision = "float32",
    trust: Trust = False,
) -> None:
    """Evaluate a classifier on labelled images, or a segmenter on images with masks: metrics with intervals, classes.

    Examples:

    `paddlemae evaluate runs/tuned --data labelled/`

    `paddlemae evaluate runs/tuned --data labelled/ --image-size 288`

    `paddlemae evaluate runs/fields --data tiles/ --overlap 0.75 --flips both --scale 1 --scale 1.5`
    """
    load_paddle()
    from paddlemae.tasks import evaluate as task
    from paddlemae.tasks.training.evaluate_masks import WindowOptions

    named = {"overlap": overlap, "blend": blend, "flips": flips, "scales": tuple(scale) if scale else None}
    given: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    task.evaluate(
        run,
        data,
        split=split,
        image_size=image_size,
        windows=WindowOptions(**given) if given else None,
        precision=precision,
        say=lambda result: print(task.result_text(result), flush=True),
        trust=trust,
    )
