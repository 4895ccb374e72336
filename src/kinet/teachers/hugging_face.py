"""Teachers from Hugging Face: ``hf:OWNER/NAME``, ``hf:OWNER/NAME@REVISION``, or ``hf:FOLDER``.

Models of semantic segmentation and image classification whose code is in transformers and whose weights are
safetensors: no code of a repository runs, no pickle is read. Frames are prepared by the numbers in the repository's
preprocessor_config.json, but stretched (bilinear, antialiased) as for every teacher, not cropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kinet.errors import InputError
from kinet.teachers.foreign_net import ForeignNet, Pixels
from kinet.teachers.teacher import Task
from kinet.teachers.teacher_config import HUB_ONLY, HUGGING_FACE, READING, TeacherConfig, refuse_settings

TASKS: dict[str, Task] = {"ForSemanticSegmentation": "human", "ForImageClassification": "scene"}
"""The ends of the names of architectures."""
REFUSED = (*READING, "scale", "channels", "output", "network", *HUB_ONLY)
NOT_FACTS = ("_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "id2label", "label2id")
"""Keys of config.json that change no label."""


def open_hugging_face(config: TeacherConfig) -> tuple[ForeignNet, tuple[str, ...], tuple[int, int]]:
    """The network, its classes' names and its input size.

    Raises:
        InputError: transformers is not installed; no such model; one without safetensors, that needs code of its
            own, of another task, or whose file lacks weights; sizes or colours that are not told.
    """
    refuse_settings(config, REFUSED, f"{config.path}: {{}} is no setting of a model of Hugging Face")
    name, _, revision = config.path.removeprefix(HUGGING_FACE).partition("@")
    if Path(name).expanduser().is_dir():
        name = str(Path(name).expanduser())
    transformers, damage = import_transformers(config.path)
    where = {"revision": revision} if revision else {}
    try:
        with quiet(transformers):
            said, _ = transformers.PretrainedConfig.get_config_dict(name, **where)
            task, opener = kind(said, transformers, config.path)
            steps, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name, **where)
            model, loading = opener.from_pretrained(
                name, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **where
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, damage) as error:
        raise InputError(f"{config.path}: transformers cannot open it: {' '.join(str(error).split())}") from error
    lost = sorted(str(key) for key in (*loading["missing_keys"], *loading["mismatched_keys"]))
    if lost:
        raise InputError(f"{config.path}: has no weights of {lost[0]} ({len(lost)} such), so it would guess")
    size = config.input_size or size_in(steps, config.path)
    facts = {"config": {key: value for key, value in said.items() if key not in NOT_FACTS}}
    network = ForeignNet(config.path, model.float(), pixels_in(steps, config.path), size, facts, task=task)
    names = tuple(str(model.config.id2label.get(number, number)) for number in range(network.channels))
    return network, names, size


def import_transformers(what: str) -> tuple[Any, type[Exception]]:
    """transformers, and what reading a damaged file raises."""
    try:
        import transformers
        from safetensors import SafetensorError
    except ImportError as error:
        raise InputError(f"{what}: needs transformers: pip install 'kinet-action[huggingface]'") from error
    return transformers, SafetensorError


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and warnings of transformers; afterwards as before."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def kind(said: Mapping[str, Any], transformers: Any, what: str) -> tuple[Task, Any]:
    """The task of a config.json's architecture, and the class of transformers that opens it."""
    architecture = next(iter(said.get("architectures") or ()), "none")
    for end, task in TASKS.items():
        if architecture.endswith(end):
            return task, getattr(transformers, f"AutoModel{end}")
    raise InputError(f"{what}: its architecture is {architecture}; a teacher's name ends in {' or '.join(TASKS)}")


def size_in(steps: Mapping[str, Any], what: str) -> tuple[int, int]:
    """Height and width that the network sees, of a preprocessor_config.json. A shortest edge gives a square."""
    size = steps.get("crop_size") if steps.get("do_center_crop") else None
    size = steps.get("size") if size is None else size
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        sides = (size.get("height", edge), size.get("width", edge))
    else:
        sides = tuple(size) if isinstance(size, list) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise InputError(f"{what}: does not say the size of its input; set this teacher's input_size: [height, width]")
    return sides[0], sides[1]


def pixels_in(steps: Mapping[str, Any], what: str) -> Pixels:
    """What a preprocessor_config.json does to colours. What it leaves out is done as most of them do: rescaled to
    [0, 1] and, with a mean, normalised."""
    mean, std = steps.get("image_mean"), steps.get("image_std")
    factor = float(steps.get("rescale_factor", 1 / 255)) if steps.get("do_rescale", True) else 1.0
    bgr = bool(steps.get("do_flip_channel_order", False))
    if steps.get("rescale_offset") or steps.get("offset"):
        raise InputError(f"{what}: its preprocessor shifts colours (rescale_offset), which is not known here")
    if not steps.get("do_normalize", mean is not None):
        return Pixels(factor, bgr=bgr)
    if not (is_colour(mean) and is_colour(std)):
        raise InputError(f"{what}: its preprocessor normalises without an image_mean and image_std of three colours")
    return Pixels(factor, tuple(map(float, mean)), tuple(map(float, std)), bgr)  # type: ignore[arg-type]


def is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(part, int | float) for part in value)
