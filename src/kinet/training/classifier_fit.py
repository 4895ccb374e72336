"""The action classifier as linear probing finds it, before fine-tuning begins (Kumar et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from kinet.evaluation.protocol import ViewBatch, eval_mode
from kinet.models.kinet import KINet

WEIGHT_DECAY = 0.1
"""On weights of standardised features, per clip: strong, since a small set has fewer clips than features."""


def fit_classifier(fabric: Fabric, model: KINet, loader: Iterable[ViewBatch]) -> None:
    """Set ``model.classifier`` to the logistic regression on what it sees of the loader's clips, one crop each.

    Features that are constant over the clips get no weight. Clips that can't be read are left out; without any, the
    classifier stays as it is.
    """
    features, labels = [], []
    with torch.no_grad(), eval_mode(model), fabric.autocast():
        for batch in loader:
            if batch.names:
                frames = batch.frames[:, :, 0].to(fabric.device)
                nodes = model.nodes(frames.flatten(0, 1))
                gathered, _ = model.gather(torch.unflatten(nodes, 0, (frames.shape[0], frames.shape[1])))
                features.append(gathered.float())
                labels.append(batch.labels.to(fabric.device))
    if features:
        weight, bias = logistic_regression(torch.cat(features), torch.cat(labels), model.classes)
        with torch.no_grad():
            model.classifier.weight.copy_(weight)
            model.classifier.bias.copy_(bias)


def logistic_regression(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weights (C, d) and biases (C,) for features (V, d) and labels (V,).

    Fitted on standardised features, so that ``WEIGHT_DECAY`` means the same for every backbone, and then expressed for
    the features as they are.
    """
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(std > 1e-6, 1 / std.clamp(min=1e-6), 0.0)
    standardised = (x - mean) * scale
    layer = nn.Linear(x.shape[1], classes, device=x.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(layer(standardised), y) + WEIGHT_DECAY / 2 * layer.weight.square().sum()
        torch.autograd.backward(value)
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    weight = layer.weight.detach() * scale
    return weight, layer.bias.detach() - weight @ mean
