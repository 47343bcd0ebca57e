"""What the weights of a MODEL are, and whether they are right: findings from the weights alone, in plain words.

It also reads what ``load_model`` refuses: weights that are not finite, shapes of no variant, files that were changed.
The report is in ``verify_report.py``. ``verify_reading.py`` reads the files, ``verify_layers.py`` judges the layers,
``verify_copies.py`` compares them with others, and ``verify_images.py`` adds what images show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from alexnet.analysis.verify_copies import comparison_findings, published_findings
from alexnet.analysis.verify_layers import bias_words, judge_layers
from alexnet.analysis.verify_reading import Subject, canonical, read_subject
from alexnet.analysis.verify_report import LayerReport, VerifyReport, summarize_report
from alexnet.core.names import printable
from alexnet.weights.layer_hashes import layer_sha256

PIXELS: Mapping[str, str] = {
    "unit": "pixels from 0 to 1",
    "symmetric": "pixels from −1 to 1",
    "channel": "pixels minus the mean of each channel, divided by its standard deviation",
    "mean-image": "pixels from 0 to 255 minus a mean image",
    "mean-image-centre": "pixels from 0 to 255 minus the centre of a mean image",
}
"""``Preprocessing.pixel_normalization`` in words."""


def verify_weights(
    model: Path | str, *, against: Path | str | None = None, variant: str | None = None, mean: Path | None = None,
    weights_root: Path | None = None,
) -> VerifyReport:  # fmt: skip
    """What the weights of a MODEL are, from its files alone. ``against``: another MODEL to compare the layers with.

    ``variant`` and ``mean``: as in ``convert``. ``weights_root``: a folder with published weights, whose layers are
    compared too; nothing is downloaded. Raises ``UserError`` for a file that cannot be read as weights.
    """
    subject = read_subject(model, variant, mean)
    other = None if against is None else read_subject(against, None, None)
    findings, statistics, state = judge_layers(subject)
    hashes = {
        name: layer_sha256(canonical(name, layer, subject), layer.bias) for name, layer in subject.weighted.items()
    }
    findings += published_findings(subject, Path(model), hashes, weights_root)
    if other is not None:
        findings += comparison_findings(subject, other)
    rows = tuple(
        LayerReport(
            name,
            printable(layer.name),
            tuple(layer.weight.shape),
            statistics.get(name),
            bias_words(layer),
            hashes[name],
        )
        for name, layer in subject.weighted.items()
    )
    report = VerifyReport(
        subject.name, subject.weights.format, subject.weights.framework, subject.variant,
        subject.identity.reasons + subject.identity.assumptions if subject.identity else (), state, "", rows,
        (*subject.findings, *findings), _unknown(subject),
    )  # fmt: skip
    return replace(report, summary=summarize_report(report))


def _unknown(subject: Subject) -> tuple[str, ...]:
    """What weights cannot tell, and what the files state of it."""
    lines = []
    a, stated = subject.architecture, subject.preprocessing
    if stated is None:
        lines.append("the mean and scale of the pixels: weights do not hold them and the file does not state them")
    else:
        lines.append(
            f"the mean and scale of the pixels: the file states {PIXELS[stated.pixel_normalization]}; weights cannot "
            "confirm it"
        )
    if a is not None and a.dropout > 0:
        source = "the file states" if subject.preprocessing is not None else f"{subject.variant} has"
        at = "in evaluation" if a.dropout_scaling == "test" else "in training"
        lines.append(f"where dropout is scaled: {source} {at}; the same weights would be right with either")
    if a is not None and any("lrn" in layer.ops for layer in a.convs):
        lines.append(
            f"what α of LRN multiplies: {subject.variant} has the {a.lrn_convention} of squares; weights cannot tell"
        )
    return tuple(lines)
