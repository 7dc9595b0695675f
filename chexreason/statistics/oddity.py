"""Films unlike those a model was trained on: plain figures of the picture, and a distance of image features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chexreason.statistics.metrics import FloatArray

PICTURE_FIGURES = ("colour", "entropy", "contrast", "grain", "extremes")
ODDITIES = ("image features", *PICTURE_FIGURES)
_FLOOR = np.array([0.01, 0.1, 0.02, 0.02, 0.02])  # of a spread: where home has none (grey films have no colour)
_SHARE = 0.99  # of the validation films of home that are to be ordinary
_MARGIN = 1.25  # times the threshold that their ranks give: a hundred films do not show the hundredth


def picture_figures(picture: npt.NDArray[np.uint8]) -> FloatArray:
    """``PICTURE_FIGURES`` of a picture [H, W, 3]; take all pictures at one size.

    Colour is the mean distance of the channels, entropy (bits) that of 64 grey levels, contrast the standard deviation,
    grain the mean step between neighbours in units of it, extremes the share of black and white pixels.
    """
    rgb = picture.astype(np.float64) / 255.0
    grey, colour = rgb.mean(axis=-1), np.abs(rgb - rgb[..., [1, 2, 0]]).mean()
    share = np.bincount((grey * 63.0).astype(int).ravel(), minlength=64) / grey.size
    entropy, contrast = -(share[share > 0] * np.log2(share[share > 0])).sum(), grey.std()
    steps = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
    extremes = ((grey < 0.01) | (grey > 0.99)).mean()
    return np.array([colour, entropy, contrast, steps / (contrast + 0.01), extremes])


def oddities(
    train: tuple[FloatArray, FloatArray], val: tuple[FloatArray, FloatArray], films: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """How unlike home each film is by each of ``ODDITIES`` [N, 6]; a film with a value above 1 is unlike home.

    Each argument is features [., D] and figures [., 5]. Features count by the Mahalanobis distance from the
    training films (their covariance shrunken by a tenth), a figure by its distance from their median. All are in units
    of a threshold each, so that ``_SHARE`` of home's validation films are below all of them: it takes their ranks.
    """
    mean, spread = train[0].mean(axis=0), np.cov(train[0].T)
    inverse = np.linalg.inv(0.9 * spread + 0.1 * np.trace(spread) / len(spread) * np.eye(len(spread)))
    middle = np.median(train[1], axis=0)
    scale = np.maximum(np.abs(train[1] - middle).mean(axis=0), _FLOOR)

    def distances(features: FloatArray, figures: FloatArray) -> FloatArray:
        apart = features - mean
        far = np.sqrt(np.maximum(np.einsum("nd,de,ne->n", apart, inverse, apart), 0.0))
        return np.concatenate([far[:, None], np.abs(figures - middle) / scale], axis=1)

    ordinary = distances(*val)
    largest = ordinary.max(axis=0) + 1e-9
    rank = min(int(np.ceil((len(ordinary) + 1) * _SHARE)), len(ordinary)) - 1
    threshold = np.sort((ordinary / largest).max(axis=1))[rank]
    far: FloatArray = distances(*films) / largest / (threshold * _MARGIN)
    return far
