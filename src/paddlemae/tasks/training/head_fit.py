"""Fit a new classifier's head to the features of its pretrained encoder, before anything is trained.

Fine-tuning then begins where a linear probe ends, so that its first steps do not distort the encoder for a head that
knows nothing (Kumar et al., "Fine-Tuning can Distort Pretrained Features", arXiv 2202.10054).

Shapes: N images, F numbers a feature, K classes.
"""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paddlemae.data.sources import Source, subset
from paddlemae.data.sources.subsets import spread_over
from paddlemae.recipe import FinetuneRecipe
from paddlemae.tasks.models.features import Labelled, labelled_features
from paddlemae.tasks.models.inference import FeatureKind
from paddlemae.tasks.training.run_start import Start
from paddlemae.tasks.training.supervised import Parts

MOST_FITTED = 20_000  # images, spread over the training images; more change a linear classifier little
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse strengths of the regularisation that are compared
USUAL = 0.01  # where no images are left to compare them on
FOLDS = 3
MOST_ITERATIONS = 200
SMALLEST_DEVIATION = 1e-6  # of a feature that says nothing


Scaled = tuple[NDArray[np.float32], NDArray[np.int64]]  # features and the number of the class of each


class Head(NamedTuple):
    """A linear classifier, weight [F, K] and bias [K], on features less their mean [F] and over their deviation [F]."""

    weight_FK: NDArray[np.float32]
    bias_K: NDArray[np.float32]
    mean_F: NDArray[np.float32]
    std_F: NDArray[np.float32]


def fit_head(parts: Parts, recipe: FinetuneRecipe, start: Start) -> None:
    """Fit the head by logistic regression and put it into the model, the same one in every process.

    A new norm in front of it brings each feature to mean 0 and deviation 1, as the fit does: with them in the head, a
    step of the optimizer would change the outputs much more.
    """
    begun, model = time.perf_counter(), parts.model
    # exchanged as JSON, whose numbers float32 turns into and back exactly
    found = start.ranks.from_first(lambda: [part.tolist() for part in _fitted(parts, recipe)])
    head = Head(*(np.array(part, np.float32) for part in found))
    if model.encoder.norms_pooled:
        model.encoder.fc_norm.weight.set_value(1 / head.std_F)
        model.encoder.fc_norm.bias.set_value(-head.mean_F / head.std_F)
        weight_FK, bias_K = head.weight_FK, head.bias_K
    else:
        weight_FK = head.weight_FK / head.std_F[:, None]
        bias_K = head.bias_K - head.mean_F @ weight_FK
    model.head.weight.set_value(weight_FK)
    model.head.bias.set_value(bias_K)
    start.say(f"fitted the head to the encoder's features in {time.perf_counter() - begun:.0f} s")


def _fitted(parts: Parts, recipe: FinetuneRecipe) -> Head:
    splits = parts.splits
    train, groups_N = _features(parts, recipe, splits.train)
    held = None if splits.validation is None else _features(parts, recipe, splits.validation)[0]
    return linear_classifier(train, held, class_weights_of(recipe), groups_N)


def _features(parts: Parts, recipe: FinetuneRecipe, source: Source) -> tuple[Labelled, NDArray[np.int64] | None]:
    """Return the features of a source, of some of its images where there are very many, and the groups of these."""
    some = subset(source, spread_over(len(source), MOST_FITTED))
    found = labelled_features(
        parts.model,
        parts.description,
        some,
        FeatureKind(token=parts.model.pool),
        batch_size=recipe.training.batch_size,
        threads=recipe.training.threads,
    )
    return found, None if some.groups is None else some.groups[found.indices]


def class_weights_of(recipe: FinetuneRecipe) -> Any:
    """Return the weights of the classes in the fit, as scikit-learn takes them."""
    if recipe.sampling == "balanced" or recipe.class_weights == "balanced":
        return "balanced"
    return None if recipe.class_weights is None else dict(enumerate(recipe.class_weights))


def linear_classifier(
    train: Labelled, held: Labelled | None, class_weights: Any, groups_N: NDArray[np.int64] | None = None
) -> Head:
    """Fit a logistic regression to features, each brought to mean 0 and deviation 1.

    Args:
        held: features that choose the strength of the regularisation; None chooses it by cross-validation.
        class_weights: as of scikit-learn's classifiers.
        groups_N: of the images to fit to, which stay together in cross-validation.
    """
    mean_F = train.features_ND.mean(axis=0)
    std_F = np.maximum(train.features_ND.std(axis=0), SMALLEST_DEVIATION)
    sets = [((part.features_ND - mean_F) / std_F, part.labels) for part in (train, held) if part is not None]
    fit = _best_fit(sets[0], sets[1] if held else None, class_weights, groups_N)
    weight_FK, bias_K = fit.coef_.T, fit.intercept_
    if len(bias_K) == 1:  # of two classes it is the second one against the first
        weight_FK, bias_K = np.hstack([np.zeros_like(weight_FK), weight_FK]), np.array([0, *bias_K])
    return Head(weight_FK, bias_K, mean_F, std_F)


def _best_fit(train: Scaled, held: Scaled | None, class_weights: Any, groups_N: NDArray[np.int64] | None) -> Any:
    """Return the fitted logistic regression of the best strength; of equal ones the most regularised."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score

    models = [LogisticRegression(C=C, max_iter=MOST_ITERATIONS, class_weight=class_weights) for C in STRENGTHS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the fit is where training begins, not its end
        if held is not None:
            scores = [log_likelihood(model.fit(*train), *held) for model in models]
        elif _fewest(train[1]) >= FOLDS:
            apart = groups_N is not None and _fewest(train[1], groups_N) >= FOLDS
            folds = (StratifiedGroupKFold if apart else StratifiedKFold)(FOLDS, shuffle=True, random_state=0)
            scores = [
                cross_val_score(model, *train, groups=groups_N, cv=folds, scoring=log_likelihood).mean()
                for model in models
            ]
        else:
            scores = [float(model.C == USUAL) for model in models]
        return models[int(np.argmax(scores))].fit(*train)


def _fewest(labels_N: NDArray[np.int64], groups_N: NDArray[np.int64] | None = None) -> int:
    """Return the images, or groups of them, of the class that has fewest, of those that have some."""
    groups_N = np.arange(len(labels_N)) if groups_N is None else groups_N
    pairs = np.unique(np.stack([labels_N, groups_N]), axis=1)
    return int(np.unique(pairs[0], return_counts=True)[1].min())


def log_likelihood(model: Any, features_NF: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float:
    """Return the mean logarithm of the probability of the right class, each class counting the same."""
    columns_N = np.searchsorted(model.classes_, labels_N)
    right_N = np.take_along_axis(model.predict_log_proba(features_NF), columns_N[:, None], axis=1)[:, 0]
    return float(np.mean([right_N[labels_N == number].mean() for number in np.unique(labels_N)]))
