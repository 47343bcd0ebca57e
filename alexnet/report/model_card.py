"""The model card: a ``README.md`` for a model that is published, in the form of the Hugging Face Hub.

It states the network, its training data and accuracy as far as the run folder knows them, its preprocessing and its
licence. What is not known is said to be unknown (Mitchell et al., "Model cards for model reporting", FAT* 2019).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alexnet.config import PixelNormalization, Preprocessing
from alexnet.core.names import markdown, printable
from alexnet.models import bundle
from alexnet.models.classifier import Classifier
from alexnet.report.markdown import described_differences, expected
from alexnet.report.text import describe_measure
from alexnet.runtime.run import Run
from alexnet.runtime.run_names import run_folder

CLASSES_SHOWN = 20
NORMALIZATIONS: Mapping[PixelNormalization, str] = {
    "unit": "pixels from 0 to 1",
    "symmetric": "pixels from −1 to 1",
    "channel": "(pixel − mean) / std on the scale 0 … 255",
    "mean-image": "the mean image in model.safetensors is subtracted at the place of the crop, on the scale 0 … 255",
    "mean-image-centre": "the centre of the mean image in model.safetensors is subtracted, on the scale 0 … 255",
}


def model_card(target: Path | str, *, name: str = "", license_name: str = "") -> str:
    """The text of the card for a run folder or model folder.

    ``name``: what a user gives to load it, ``hub:OWNER/NAME``; by default the folder. ``license_name``: an identifier
    such as ``cc-by-4.0``. Raises ``UserError`` if there is no model.
    """
    folder = bundle.model_folder(target)
    model = bundle.load_model(folder)
    run = Run(run_folder(str(folder)))
    result = run.result if run.finished else None
    tags = ["image-classification", "alexnet", model.variant]
    front = {"library_name": "alexnet", "pipeline_tag": "image-classification", "tags": tags}
    if license_name:
        front["license"] = license_name
    where = name or printable(str(target))
    lines = [
        "---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "",
        f"# {markdown(model.variant)}, an AlexNet for {model.num_classes:,} classes", "",
        *_network(model), "", "## Training and accuracy", "", *_training(run, result), "",
        "## Preprocessing", "", *_preprocessing(model.preprocessing), "", "## Use", "",
        "```", f"alexnet predict {where} photo.jpg", "```", "", "```python",
        f"model = alexnet.load_model({where!r})", "transform = alexnet.create_transform(model)", "```", "",
        "## Licence", "",
        f"{license_name}." if license_name else "The licence of these weights is not stated: ask their author.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _network(model: Classifier) -> list[str]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    channels = "channel" if model.in_channels == 1 else "channels"
    labels = ", ".join(markdown(label) for label in model.labels[:CLASSES_SHOWN])
    more = " …" if model.num_classes > CLASSES_SHOWN else ""
    return [
        f"- variant: `{model.variant}`, {parameters:,} parameters",
        f"- input: {model.in_channels} {channels}, {model.image_size} × {model.image_size} pixels",
        f"- classes: {labels}{more}",
    ]


def _training(run: Run, result: dict[str, Any] | None) -> list[str]:
    if result is None:
        return ["The training and the accuracy of these weights are unknown: the model has no run folder."]
    recipe = run.recipe
    splits = ", ".join(f"{count:,} {split}" for split, count in result["splits"].items() if count)
    changes = markdown("; ".join(described_differences(recipe, result["source"])))
    lines = [
        f"- recipe: `{recipe.name}`, seed {result['seed']}{f', changed: {changes}' if changes else ''}",
        f"- data: {markdown(str(result['source']))} ({splits})",
    ]
    if result["split"] is None:
        return [*lines, "- accuracy: not measured, there were no images to evaluate on"]
    lines.append(f"- accuracy: {describe_measure(result)}")
    return [*lines, f"- expected: {markdown(claim)}"] if (claim := expected(recipe)) else lines


def _preprocessing(settings: Preprocessing) -> list[str]:
    size = settings.resize_size
    resize = (
        f"the short side is resized to {size} pixels and the centre {size} × {size} is taken"
        if settings.resize == "short-side"
        else f"both sides are resized to {size} pixels"
    )
    crop = f"the centre {settings.crop} × {settings.crop} is cropped" if settings.crop != size else "nothing is cropped"
    scaled = f", and resized to {settings.image_size}" if settings.image_size != settings.crop else ""
    values = ""
    if settings.mean:
        numbers = (", ".join(f"{value:g}" for value in each) for each in (settings.mean, settings.std))
        values = "; mean {}, std {}".format(*numbers)
    return [f"- {resize}; {crop}{scaled}", f"- {NORMALIZATIONS[settings.pixel_normalization]}{values}"]
