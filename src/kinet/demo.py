"""``kinet demo``: the whole job on the generated set, from clips to a report."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from kinet.config import Config, DataConfig, LossConfig, ModelConfig, TrainingConfig
from kinet.data.dataset import ViewDataset, ViewSample
from kinet.data.generated import SCENES, teacher_samples, write_generated_set
from kinet.data.manifest import read_manifest
from kinet.errors import InputError
from kinet.evaluation.metrics import Metrics
from kinet.evaluation.protocol import Views
from kinet.evaluation.run_test import TestOptions, run_test
from kinet.explain.report import ReportRun, ReportSample, write_report
from kinet.models.kinet import KINet
from kinet.progress import clip_progress
from kinet.teachers.labelling import Labelling, fill_cache
from kinet.teachers.small import ModuleTeacher, mean_iou, scene_accuracy, train_parser, train_scene_net
from kinet.training.checkpoint import load_checkpoint, load_model
from kinet.training.engine import train
from kinet.training.run_folder import environment, read_log

console = Console(stderr=True, highlight=False)
