"""SGD as TSN trains: rules per kind of parameter, step schedule, frozen batch normalisation."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kinet.config import TrainingConfig
from kinet.models.kinet import KINet, find_block_name


def build_optimizer(model: KINet, config: TrainingConfig) -> torch.optim.SGD:
    """SGD with TSN's rules (tsn-pytorch, models.py, ``get_optim_policies``).

    Weights: lr and weight decay. Biases of convolutions and linear layers: twice the lr, no decay. Batch
    normalisation: lr, no decay. Rates of layers that are not the backbone's are ``new_layers_lr`` times as high. Frozen
    parameters are left out.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    pretrained = set(model.backbone_modules())
    for module in model.modules():
        faster = 1.0 if module in pretrained else config.new_layers_lr
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, _BatchNorm):
                rule = (faster, 0.0)
            elif name == "bias":
                rule = (2 * faster, 0.0)
            else:
                rule = (faster, config.weight_decay)
            if parameter.requires_grad:
                groups[rule].append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": parameters, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]
    return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, epoch: int, step: int) -> float:
    """Set the rate of a step and return it: a tenth after each milestone, a linear rise over the warm-up.

    Args:
        epoch: from 0.
        step: of the whole training, from 0.
    """
    lr = config.lr * 0.1 ** sum(epoch >= milestone for milestone in config.milestones)
    if step < config.warmup_steps:
        lr *= (step + 1) / config.warmup_steps
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    return lr


def freeze_parameters(model: KINet, config: TrainingConfig) -> None:
    """Stop the gradients of what ``partial_bn`` and ``freeze_until`` keep. Call before the optimiser is built."""
    for module in frozen_modules(model, config):
        for parameter in module.parameters():
            parameter.requires_grad_(False)


def set_training_mode(model: KINet, config: TrainingConfig) -> None:
    """Training mode, but with the frozen parts' statistics held."""
    model.train()
    for module in frozen_modules(model, config):
        module.eval()


def frozen_modules(model: KINet, config: TrainingConfig) -> list[nn.Module]:
    """What the training keeps as it was loaded.

    ``freeze_until``: the shared blocks up to the named one. ``partial_bn``: every batch normalisation of the
    backbone but the very first (TSN, section 3.3); those of CBI and the decoder are new, and stay free.

    Raises:
        InputError: ``freeze_until`` names no shared stage or block.
    """
    frozen: list[nn.Module] = []
    if config.freeze_until is not None:
        last = find_block_name(config.freeze_until, list(model.shared), "training.freeze_until")
        for name, block in model.shared.items():
            frozen.append(block)
            if name == last:
                break
    if config.partial_bn:
        norms = [module for module in model.backbone_modules() if isinstance(module, _BatchNorm)]
        frozen += norms[1:]
    return frozen
