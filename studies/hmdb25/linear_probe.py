"""What a linear classifier makes of the frozen ImageNet features: the floor under the trained networks of run.py.

    python studies/hmdb25/linear_probe.py --shared FOLDER [--size 224]

Features of MobileNetV2 averaged over 3 whole frames of SIZE pixels, standardised; multinomial logistic regression whose
weight decay is chosen by 5-fold cross-validation on train.csv. Writes linear_probe_SIZE.json beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from run import HERE, RUNS, kinet
from torch import Tensor

from kinet.config import DataConfig, ModelConfig
from kinet.data.dataset import ViewDataset, ViewSample
from kinet.data.manifest import Manifest, read_manifest
from kinet.evaluation.protocol import Views
from kinet.models.kinet import KINet, build_kinet

DECAYS = (1e-3, 1e-2, 1e-1, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    torch.manual_seed(0)
    weights = str(options.shared / "weights/mobilenet_v2-b0353104.pth")
    tsn = ModelConfig(backbone="mobilenet_v2", weights=weights, auxiliaries=[], cbi=[], akg="none")
    model = build_kinet(tsn, 25).to_channels_last().eval()
    clips = options.shared / "data/hmdb25"
    for split in ("train", "val"):
        listed = options.shared / "data/hmdb25_splits" / f"{split}.csv"
        kinet("manifest", "frames", clips, RUNS / f"{split}.csv", "--list", listed)
    train = read_manifest(RUNS / "train.csv", root=clips)
    x, y = features(model, train, options.size)
    val_x, val_y = features(model, read_manifest(RUNS / "val.csv", root=clips, classes=train.classes), options.size)
    mean, std = x.mean(dim=0), x.std(dim=0) + 1e-3
    x, val_x = (x - mean) / std, (val_x - mean) / std
    decay = max(DECAYS, key=lambda decay: cross_validated(x, y, decay))
    top1 = accuracy(fit(x, y, decay), val_x, val_y)
    result = {"size": options.size, "weight_decay": decay, "val_top1": round(top1, 2)}
    (HERE / f"linear_probe_{options.size}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


@torch.no_grad()
def features(model: KINet, clips: Manifest, size: int) -> tuple[Tensor, Tensor]:
    """(V, d) mean features and (V,) labels."""
    dataset = ViewDataset(clips, DataConfig(frame_size=(size, size), input_size=size), Views(3, 1))
    samples = [sample for index in range(len(dataset)) if isinstance(sample := dataset[index], ViewSample)]
    rows = [model.nodes(sample.frames[:, 0])[:, 0].mean(dim=0) for sample in samples]
    return torch.stack(rows), torch.tensor([sample.label for sample in samples])


def fit(x: Tensor, y: Tensor, decay: float) -> torch.nn.Linear:
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(layer(x), y) + decay / 2 * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return layer


def accuracy(layer: torch.nn.Linear, x: Tensor, y: Tensor) -> float:
    return 100 * (layer(x).argmax(dim=1) == y).float().mean().item()


def cross_validated(x: Tensor, y: Tensor, decay: float) -> float:
    """Mean accuracy over 5 folds."""
    folds = torch.arange(len(y))[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))] % 5
    held_out = [folds == fold for fold in range(5)]
    return sum(accuracy(fit(x[~held], y[~held], decay), x[held], y[held]) for held in held_out) / 5


if __name__ == "__main__":
    main()
