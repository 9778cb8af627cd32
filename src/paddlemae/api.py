"""Use PaddleMAE from Python, as in a notebook: models that take images of any form, and trainings in one call.

Shapes: N images of H x W pixels and C channels, D width of a feature, K classes.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from paddlemae.data.batches import eval_batches
from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.sources import Images, InMemoryReader, Source, as_source
from paddlemae.engine import device as devices
from paddlemae.engine.host import host_as_before
from paddlemae.launch.commands import TrainingCommand, train_in_processes
from paddlemae.launch.launcher import Launch
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import Mask
from paddlemae.recipe import load_recipe
from paddlemae.runs.figures import draw_reconstructions
from paddlemae.runs.runlog import RESULT_FILE
from paddlemae.system.documents import read_object
from paddlemae.system.signals import INTERRUPTED_STATUS, REQUEUE_STATUS, Preempted
from paddlemae.tasks import finetune as finetuning
from paddlemae.tasks import pretrain as pretraining
from paddlemae.tasks.models.build import load_autoencoder, load_classifier, load_encoder
from paddlemae.tasks.models.features import embedded
from paddlemae.tasks.models.inference import LOGITS, FeatureKind
from paddlemae.tasks.models.mask_choice import MaskChoice, choose_mask, parse_mask
from paddlemae.tasks.models.predictions import Predictions, class_probabilities
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import KIND_NAMES, Checkpoint, read_checkpoint
from paddlemae.tasks.models.reconstruction import caption_of, draw_stages
from paddlemae.tasks.plan.make_plan import make_plan
from paddlemae.tasks.plan.plan import Plan
from paddlemae.tasks.training.run_start import Start

SHOWN = 8  # images of a notebook's picture
AT_ONCE = 32  # images that are computed together


def load(
    weights: str | os.PathLike[str], *, device: str = "auto", threads: int | str = "auto", trust: bool = False
) -> Model:
    """Load a model, ready for images.

    Args:
        weights: a run folder, a checkpoint, or anyone's MAE or ViT weights, as for every command.
        device: "cpu", "gpu" ..., or "auto": the accelerator that Paddle was built for.
        threads: of the CPU; "auto" takes all.
        trust: take a checkpoint of ours that has no checksums, too.
    Raises:
        FileNotFoundError, ValueError: nothing there, no model, or no such device.
        ModuleNotFoundError: no Paddle.
    """
    with host_as_before():
        name = devices.prepare(device, threads)
        return Model(read_checkpoint(os.fspath(weights), trust=trust), threads, name)


class Model:
    """A trained model, as returned by `load`.

    Images are given as in `as_source`: a path, a picture of Pillow, a uint8 or uint16 array, a list of these, or a
    source ("digits", a folder, an archive ...). They are resized and cropped as in evaluation. One that can't be read
    is a ValueError, so that results are always as many as images, in their order. Outputs that are not finite are a
    FloatingPointError.

    Attributes:
        kind: "mae", "classifier" or "encoder".
        image_size: (height, width) in pixels of what the model sees; channels: of an image.
        classes: a classifier's, else empty.
        layer: the `paddle.nn.Layer` itself, in eval mode.
    """

    def __init__(self, checkpoint: Checkpoint, threads: int | str = "auto", device: str = "auto"):
        self.description = checkpoint.description
        self.kind = self.description.kind
        view = evaluation_view(self.description)
        self.image_size, self.channels = view.image_size, view.channels
        self.classes = tuple(self.description.classes)
        self.layer = load_encoder(checkpoint)
        self._checkpoint, self._threads, self._device = checkpoint, threads, device

    def __repr__(self) -> str:
        shape, (height, width) = self.description.architecture, self.image_size
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return (
            f"<{KIND_NAMES[self.kind]} of {shape['depth']} blocks x {shape['embed_dim']}, images of {height} x {width} "
            f"x {self.channels}{classes}, from {self._checkpoint.folder}>"
        )

    def encode(
        self, images: Images, *, token: str = "mean", layer: int | None = None, norm: Literal["layer", "none"] = "layer"
    ) -> np.ndarray:
        """Compute features of whole images, the same ones in every call: float32 [N, D].

        Args:
            token: "cls", or "mean" or "mean+std" (and deviation, [N, 2 D]) of the patch tokens.
            layer: the block that they are taken after, counted from 1; None is the last.
            norm: "layer", the encoder's last norm, or "none".
        Raises:
            ValueError, FileNotFoundError: features that the model does not have, or images that can't be used.
        """
        if norm not in ("layer", "none"):  # not every caller has its types checked
            raise ValueError(f"norm {norm!r} makes features depend on other images; use 'layer' or 'none'")
        return self._outputs(images, FeatureKind(token, layer, norm))

    def predict(self, images: Images) -> Predictions:
        """Return a classifier's probabilities of its classes, as `paddlemae predict` computes them.

        Raises:
            ValueError, FileNotFoundError: the model is no classifier, or images that can't be used.
        """
        if self.kind != "classifier":
            load_classifier(self._checkpoint)  # says what it is instead
        thresholds = self.description.thresholds
        probabilities = class_probabilities(self._outputs(images, LOGITS), thresholds)
        return Predictions(self.classes, probabilities, None if thresholds is None else tuple(thresholds))

    def classify(self, images: Images) -> Predictions:
        """Return what `predict`, the present name, returns."""
        warnings.warn("Model.classify is called Model.predict now", FutureWarning, stacklevel=2)
        return self.predict(images)

    def reconstruct(
        self,
        images: Images,
        *,
        mask_ratio: float | None = None,
        seed: int = 0,
        mask: str | os.PathLike[str] | np.ndarray = "random",
    ) -> Pictures:
        """Reconstruct images of which the masked autoencoder sees some patches.

        Args:
            mask_ratio: share of the patches to remove; 0.75 unless given.
            seed: draws the mask.
            mask: what `--mask` takes (a key of `masking.MASKS`, "none", "boxes:10,20,60,80", a file), or a map of the
                patches, [rows, columns] for all images or [N, rows, columns], True or 1 where one is removed.
        Raises:
            ValueError, FileNotFoundError: the model has no decoder, or images or a mask that can't be used.
        """
        if isinstance(mask, np.ndarray):
            choice = MaskChoice(ratio=mask_ratio, seed=seed, removed=mask)
        else:
            choice = parse_mask(os.fspath(mask), mask_ratio, seed)
        with self._computing():
            return self._reconstructed(images, choice)

    def _reconstructed(self, images: Images, choice: MaskChoice) -> Pictures:
        model = self.layer
        if not isinstance(model, MaskedAutoencoder):
            model = load_autoencoder(self._checkpoint)  # says what it is instead
        source = as_source(images)
        seen_BCHW = np.concatenate([batch.images for batch in self._batches(source)])
        chosen = choose_mask(choice, model.grid, len(seen_BCHW), model.encoder.patch_size)
        if len(chosen.keep) != len(seen_BCHW):
            raise ValueError(f"the map is of {len(chosen.keep)} images, and there are {len(seen_BCHW)}")
        blocks = [slice(start, start + AT_ONCE) for start in range(0, len(seen_BCHW), AT_ONCE)]
        drawn = [
            draw_stages(model, self.description, seen_BCHW[block], Mask(chosen.keep[block], chosen.removed[block]))
            for block in blocks
        ]
        stages = {name: np.concatenate([part[name] for part in drawn]) for name in drawn[0]}
        return Pictures(
            original=stages["original"],
            masked=stages["masked"],
            prediction=stages["prediction"],
            completed=stages["prediction + visible"],
            plain=stages["plain prediction"],
            removed=chosen.as_map().reshape(-1, *model.grid),
            caption=caption_of(self.description, chosen),
        )

    def _outputs(self, images: Images, output: FeatureKind | Literal["logits"]) -> np.ndarray:
        source = as_source(images)
        in_memory = isinstance(source.reader, InMemoryReader) and not source.reader.all_files
        with self._computing():
            batches = embedded(
                self.layer,
                self.description,
                source,
                kind=output,
                batch_size=AT_ONCE,
                workers=0 if in_memory else "auto",
                threads=self._threads,
                on_skip=_refuse,
            )
            return np.concatenate([outputs for outputs, _ in batches])

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with host_as_before():
            devices.prepare(self._device, self._threads)
            yield

    def _batches(self, source: Source) -> Iterator[Any]:
        return eval_batches(source, evaluation_view(self.description), batch_size=AT_ONCE, on_skip=_refuse)


def _refuse(image: UnreadableImage) -> NoReturn:
    raise ValueError(str(image)) from image


@dataclass(frozen=True, eq=False)
class Pictures:
    """Reconstructions, uint8 [N, H, W, C] each; a notebook shows the first ones as a figure.

    Attributes:
        original: the images as the model sees them.
        masked: removed patches in grey.
        prediction: every patch as predicted, with `norm_pix_loss` brought to the original patch's mean and deviation.
        completed: `prediction` with the visible patches put back.
        plain: the decoder's output as it is.
        removed: bool [N, rows, columns], True where a patch was removed.
        caption: what must be known to read them right.
    """

    original: np.ndarray
    masked: np.ndarray
    prediction: np.ndarray
    completed: np.ndarray
    plain: np.ndarray
    removed: np.ndarray
    caption: str

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the figure of all images; the name's ending says how (.png, .pdf ...)."""
        self._draw(Path(path), len(self.original))
        return Path(path)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self._draw(content, SHOWN)
        return content.getvalue()

    def _draw(self, to: Any, count: int) -> None:
        stages = {name: getattr(self, name)[:count] for name in ("original", "masked", "prediction", "completed")}
        draw_reconstructions(to, list(stages), list(stages.values()), self.caption)


def pretrain(
    recipe: str | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    procs: int | None = None,
    **settings: Any,
) -> Path:
    """Pretrain a masked autoencoder, as `paddlemae pretrain` does.

    Args:
        recipe: a recipe's name or a .yaml file; None for the defaults.
        data: images, see `open_source`; None is the recipe's.
        out: the run folder. An unfinished run of the same recipe there is continued.
        resume: continue the run in `out`; overwrite: replace it.
        procs: processes of this host that share each batch; None trains in this one.
        settings: of the recipe: `steps=100`, `init="mae.pth"`, or with its section `**{"model.depth": 4}`.
    Returns:
        the run folder, which `load` takes.
    Raises:
        ValueError, FileNotFoundError: a setting, images or a folder that can't be used; nothing is written.
        KeyboardInterrupt, NonFiniteLoss, OSError: training ended early; the text says what was kept.
        RuntimeError: one of several processes ended with an error, which is on stderr.
    """
    command = TrainingCommand("pretrain", recipe, _overrides(settings, data=data), Path(out), resume, overwrite, quiet)
    if not _launched(command, procs):
        with host_as_before():
            pretraining.pretrain(_recipe_of(command), Start(command.out, resume, overwrite, quiet))
    return command.out


def finetune(
    recipe: str | None = None,
    *,
    init: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    procs: int | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Fine-tune a classifier on labelled images, as `paddlemae finetune` does.

    Args:
        init: a pretraining run, anyone's weights, or "scratch".
        recipe, data, out, resume, overwrite, procs, settings: as for `pretrain`; the images are labelled.
    Returns:
        the result, as in `result.json`: `top1` (accuracy), `balanced_accuracy` ... of the test part in [0, 1] with the
        best weights, their `intervals`, `primary`, `majority` ...; `load` takes `out`.
    Raises:
        As `pretrain`.
    """
    overrides = _overrides(settings, data=data, init=init)
    command = TrainingCommand("finetune", recipe, overrides, Path(out), resume, overwrite, quiet)
    if _launched(command, procs):
        return read_object(command.out / RESULT_FILE)
    with host_as_before():
        return finetuning.finetune(_recipe_of(command), Start(command.out, resume, overwrite, quiet))


def plan(
    data: str | os.PathLike[str], minutes: float = 30, *, device: str = "auto", seed: int = 0, quiet: bool = False
) -> Plan:
    """Plan a pretraining, and a fine-tuning where there are labels, as `paddlemae plan` does.

    Args:
        data: images, see `open_source`.
        minutes: for both trainings and their evaluations together, on this machine.
        device, seed: of the trainings.
    Returns:
        the plan: `plan.recipe("pretrain")` is a recipe, `plan.settings` has the reason for each of its values.
    Raises:
        ValueError, FileNotFoundError: images or a time that no training can be planned for.
        ModuleNotFoundError: no Paddle.
    """
    with host_as_before():
        return make_plan(os.fspath(data), minutes, device=device, seed=seed, quiet=quiet)


def auto(
    data: str | os.PathLike[str],
    minutes: float = 30,
    *,
    out: str | os.PathLike[str],
    compare: bool = False,
    seed: int = 0,
    device: str = "auto",
    dry_run: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Check images, plan, pretrain, evaluate, fine-tune and report within a time, as `paddlemae auto` does.

    Args:
        data: images, see `open_source`; labelled ones are also fine-tuned on.
        minutes: of everything except `compare`.
        out: the folder of the run. One of the same settings there that was stopped is resumed.
        compare: also train from scratch, for as long as pretraining and fine-tuning took.
        seed: of the trainings and the test part; device: as in recipes.
        dry_run: print the plan, and write nothing.
        overwrite: replace a run in `out`.
    Returns:
        the outcome: `verdict`, a sentence that says whether pretraining helped, `rows`, a result of each method on the
        test part (none without labels), `report`, the path of the page ...; of a dry run nothing.
    Raises:
        ValueError, FileNotFoundError: images, a time or a folder that can't be used.
        KeyboardInterrupt, NonFiniteLoss, OSError: it ended early; the same call resumes.
    """
    from paddlemae.tasks.auto.commands import Commands, Request
    from paddlemae.tasks.auto.run_auto import auto as run_auto
    from paddlemae.tasks.data import check as checking
    from paddlemae.tasks.data import split_lists as splitting
    from paddlemae.tasks.knn import classify_by_neighbours

    commands = Commands(
        check=checking.check,
        summarize=checking.summarize,
        write_check=checking.write_check,
        split_images=splitting.split_images,
        write_list=splitting.write_list,
        make_plan=make_plan,
        pretrain=pretraining.pretrain,
        finetune=finetuning.finetune,
        classify_by_neighbours=classify_by_neighbours,
    )
    request = Request(os.fspath(data), minutes, Path(out), compare, seed, device, dry_run, overwrite, quiet)
    with host_as_before():
        return run_auto(request, commands)


def _overrides(settings: dict[str, Any], **named: str | os.PathLike[str] | None) -> dict[str, Any]:
    given = {**settings, **{key: value for key, value in named.items() if value is not None}}
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in given.items()}


def _recipe_of(command: TrainingCommand) -> Any:
    return load_recipe(command.task, command.recipe, command.overrides)


def _launched(command: TrainingCommand, procs: int | None) -> bool:
    """Run a training in several processes, if there are to be several; return whether there were.

    Raises:
        RuntimeError, KeyboardInterrupt, Preempted: as the processes ended.
    """
    launch = Launch(procs if procs is None else str(procs))
    launch.check()
    if not launch.is_needed:
        return False
    status = train_in_processes(command, launch)
    text = f"the {procs} processes of this training ended with status {status}; their messages are above, on stderr"
    if status == INTERRUPTED_STATUS:
        raise KeyboardInterrupt(text)
    if status == REQUEUE_STATUS:
        raise Preempted(text)
    if status:
        raise RuntimeError(text)
    return True
