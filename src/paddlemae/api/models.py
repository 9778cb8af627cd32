"""Models from Python, which take images of any form, as in a notebook.

Shapes: N images of H x W pixels and C channels, D width of a feature, K classes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NoReturn

import numpy as np

from paddlemae.api.pictures import Masks, Pictures
from paddlemae.data.batches import eval_batches
from paddlemae.data.decode.images import UnreadableImage
from paddlemae.data.decode.row_image import whole_image
from paddlemae.data.sources import Images, InMemoryReader, Source, as_source
from paddlemae.engine import device as devices
from paddlemae.engine.host import host_as_before
from paddlemae.model.mae import MaskedAutoencoder
from paddlemae.model.masking import Mask
from paddlemae.tasks.models.build import load_autoencoder, load_classifier, load_encoder, load_segmenter
from paddlemae.tasks.models.features import embedded
from paddlemae.tasks.models.inference import FeatureKind, Logits, forward_function
from paddlemae.tasks.models.mask_choice import MaskChoice, choose_mask, parse_mask
from paddlemae.tasks.models.predictions import Predictions, class_probabilities
from paddlemae.tasks.models.preprocess import evaluation_view
from paddlemae.tasks.models.read_model import KIND_NAMES, Checkpoint, read_checkpoint
from paddlemae.tasks.models.reconstruction import caption_of, draw_stages
from paddlemae.tasks.models.segment_image import fit_windows
from paddlemae.tasks.models.windows import DEFAULT_OVERLAP, Blend, Flips
from paddlemae.tasks.predictions.segment_rows import Feed, segment_rows
from paddlemae.tasks.predictions.window_choice import WindowChoice, palette_of

AT_ONCE = 32  # images that are computed together


def load(
    weights: str | os.PathLike[str],
    *,
    device: str = "auto",
    threads: int | str = "auto",
    precision: str = "float32",
    trust: bool = False,
) -> Model:
    """Load a model, ready for images.

    Args:
        weights: a run folder, a checkpoint, or anyone's MAE or ViT weights, as for every command.
        device: "cpu", "gpu" ..., or "auto": the accelerator that Paddle was built for.
        threads: of the CPU; "auto" takes all.
        precision: of features, probabilities and masks: "float32", or "bfloat16" where the device has it.
        trust: take a checkpoint of ours that has no checksums, too.
    Raises:
        FileNotFoundError, ValueError: nothing there, no model, no such device, or a precision that it does not have.
        ModuleNotFoundError: no Paddle.
    """
    with host_as_before():
        name = devices.prepare(device, threads, precision)
        return Model(read_checkpoint(os.fspath(weights), trust=trust), threads, name, precision)


class Model:
    """A trained model, as returned by `load`.

    Images are given as in `as_source`: a path, a picture of Pillow, a uint8 or uint16 array, a list of these, or a
    source ("digits", a folder, an archive ...). They are resized and cropped as in evaluation. One that can't be read
    is a ValueError, so that results are always as many as images, in their order. Outputs that are not finite are a
    FloatingPointError.

    Attributes:
        kind: "mae", "classifier", "segmenter" or "encoder".
        image_size: (height, width) in pixels of what the model sees; channels: of an image.
        classes: a classifier's or a segmenter's, else empty.
        layer: the `paddle.nn.Layer` itself, in eval mode.
    """

    def __init__(
        self, checkpoint: Checkpoint, threads: int | str = "auto", device: str = "auto", precision: str = "float32"
    ):
        self.description = checkpoint.description
        self.kind = self.description.kind
        view = evaluation_view(self.description)
        self.image_size, self.channels = view.image_size, view.channels
        self.classes = tuple(self.description.classes)
        self.layer = load_encoder(checkpoint)
        self._checkpoint, self._threads, self._device, self._precision = checkpoint, threads, device, precision

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
        return self._outputs(images, FeatureKind(token, layer, norm, self._precision))

    def predict(self, images: Images) -> Predictions:
        """Return a classifier's probabilities of its classes, as `paddlemae predict` computes them.

        Raises:
            ValueError, FileNotFoundError: the model is no classifier, or images that can't be used.
        """
        if self.kind != "classifier":
            load_classifier(self._checkpoint)  # says what it is instead
        thresholds = self.description.thresholds
        probabilities = class_probabilities(self._outputs(images, Logits(self._precision)), thresholds)
        return Predictions(self.classes, probabilities, None if thresholds is None else tuple(thresholds))

    def classify(self, images: Images) -> Predictions:
        """Return what `predict`, the present name, returns."""
        warnings.warn("Model.classify is called Model.predict now", FutureWarning, stacklevel=2)
        return self.predict(images)

    def segment(
        self,
        images: Images,
        *,
        min_confidence: float = 0.0,
        probabilities: bool = False,
        window: int | tuple[int, int] | None = None,
        overlap: float = DEFAULT_OVERLAP,
        blend: Blend = "smooth",
        flips: Flips = "none",
        scales: tuple[float, ...] = (1.0,),
    ) -> Masks:
        """Return a segmenter's class of every pixel, in windows at the images' own sizes, as `paddlemae predict` does.

        Args:
            min_confidence: pixels whose class is less probable get none.
            probabilities: keep those of all classes, too.
            window: height and width of a window in pixels; None: of the images that the model was trained on.
            overlap, blend, flips, scales: see `tasks.models.windows.Windows`.
        Raises:
            ValueError, FileNotFoundError: the model is no segmenter, or images or windows that can't be used.
        """
        if self.kind != "segmenter":
            load_segmenter(self._checkpoint)  # says what it is instead
        windows = WindowChoice(window, overlap, blend, flips, scales).of(self.description)
        source, depth = as_source(images), evaluation_view(self.description).depth
        found = Masks(self.classes, palette_of(self.description), [], [], [], [])
        with self._computing():
            forward = forward_function(self.layer, self.description, Logits(self._precision), threads=self._threads)
            for i in range(len(source)):
                try:
                    pixels_HWC = source.read(i, self.channels)
                except UnreadableImage as fault:
                    _refuse(fault)
                feed = Feed(whole_image(pixels_HWC, depth))
                masks, confidence, every = [], [], []
                fitted = fit_windows(windows, self.description, feed.image.size)
                for block in segment_rows(forward, feed, fitted, min_confidence):
                    masks.append(block.classes_hW)
                    confidence.append(block.confidence_hW)
                    every += [block.probabilities_KhW.copy()] if probabilities else []
                found.masks.append(np.concatenate(masks))
                found.confidence.append(np.concatenate(confidence))
                if probabilities:
                    found.probabilities.append(np.concatenate(every, axis=1))
                found.images.append(pixels_HWC)
        return found

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

    def _outputs(self, images: Images, output: FeatureKind | Logits) -> np.ndarray:
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
            devices.prepare(self._device, self._threads, self._precision)
            yield

    def _batches(self, source: Source) -> Iterator[Any]:
        return eval_batches(source, evaluation_view(self.description), batch_size=AT_ONCE, on_skip=_refuse)


def _refuse(image: UnreadableImage) -> NoReturn:
    raise ValueError(str(image)) from image
