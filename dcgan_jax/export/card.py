"""The model card of an export: a README.md in Hugging Face's format."""

import dataclasses
import html
import json
import shlex
from pathlib import Path
from typing import NamedTuple

import dcgan_jax
from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import SEEDS, Config, make_printable
from dcgan_jax.data.listing import CELEBA_PAGE
from dcgan_jax.export import Export, Exported
from dcgan_jax.export.comparison import describe_comparison
from dcgan_jax.export.writing import describe_kind, describe_latent
from dcgan_jax.gan.state import LABELS, count_parameters
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.run import online_score, pretrained, report_scores, workdir
from dcgan_jax.run.report_summary import describe_images_shown

CODE_LICENCE = (
    "dcgan_jax, and the code in this folder that it wrote, are licensed under "
    "[Apache-2.0](https://www.apache.org/licenses/LICENSE-2.0)."
)


def make_card(gan: TrainedGAN, ask: Export, usage: str, found: Exported) -> str:
    """Returns the text of the model card.

    Args: usage, the section about loading the file, which depends on the format; found, the result of the export.
    """
    config, run = gan.config, gan.folder
    nets, facts = config.nets, workdir.read_data_facts(run)
    parameters = count_parameters(gan.generator[0])
    fingerprint = make_printable(facts["fingerprint"], 100)
    changes = {name: now for name, (_, now) in compare_with_preset(config).items() if name != "data"}
    changed = f"with these changes: `{make_printable(json.dumps(changes), 1000)}`" if changes else "unchanged"
    command, rights = _describe_command(ask), _describe_rights(config, facts["source"])
    conditions = (
        f"""
The model is conditional. Its attributes: {make_printable(", ".join(gan.attributes), 10_000)} (labels of 0 and 1 in this order).
By default a seed's labels are row seed % {LABELS} of `labels.npy`, which has the labels of random training images.
"""
        if gan.attributes
        else ""
    )
    return f"""---
library_name: dcgan_jax
pipeline_tag: unconditional-image-generation
tags: [{"dcgan, " if nets.architecture == "dcgan" else ""}gan, faces, {ask.format}]
{rights.metadata}
---

# {make_printable(config.run.name, 100)}: a {describe_kind(nets)} of {nets.size} px, {ask.format}

{usage}{conditions}
A latent has {nets.latent_dim} numbers from {"N(0, 1)" if nets.latent_law == "normal" else "U(-1, 1)"}. The latent of a seed,
from 0 to {SEEDS - 1}, is `{describe_latent(gan)}`.

| | |
|---|---|
| preset | `{config.run.preset}`, {changed} |
| step | {gan.step:,} |
| images shown in training | {describe_images_shown(run, gan.step * config.images_per_step)} |
| G | {parameters:,} parameters, stored as {ask.weights}: `{found.file.name}`, {found.size_bytes:,} bytes |
| compared with the checkpoint | {describe_comparison(found.comparison, found.compute_dtype)} |
| training images | {facts["count"]:,}, {make_printable(facts["source"]["name"], 200)}, fingerprint `{fingerprint}` |
| written by | dcgan_jax {dcgan_jax.__version__}: `{make_printable(command, 500)}` |

## Scores

{_describe_scores(run, gan.step)}

## Licence

{rights.text}
"""


def _describe_scores(run: Path, step: int) -> str:
    """Describes the checkpoint's scores, in training and by `evaluate`, as a Markdown table."""
    rows = report_scores.list_evaluated(run, step)
    cells = [(row.measure, row.value, row.floor, row.count, row.secondary, row.real) for row in rows]
    if line := online_score.read_online_scores(run).get(step):
        cells.insert(0, (f"in training, by {report_scores.describe_measure(line)}", f"{line['value']:.4g}", "", "", "", ""))
    if not cells:
        return "This checkpoint has no score yet."
    head = ("score", "value", "floor", "N", "other scores", "real images"), ("---",) * 6
    table = "\n".join("| " + " | ".join(_escape_cell(cell) for cell in row) + " |" for row in (*head, *cells))
    return (
        "Smaller values and KIDs are better; larger precision, recall, density and coverage are better. The floor is the score "
        f"of one half of the real images against the other half.\n\n{table}"
    )


def _escape_cell(text: str) -> str:
    """The text on one line without what would end the cell or be read as HTML: it may quote a stranger's file."""
    return html.escape(make_printable(text, 300)).replace("|", "&#124;")


class _Rights(NamedTuple):
    metadata: str  # lines of the card's header
    text: str


def _describe_rights(config: Config, source: dict) -> _Rights:
    """Describes the licence of the code, and of the weights as far as it follows from the training images."""
    start = make_printable(config.run.start, 200)
    nobody = "The generated faces are not of real people. By chance one may resemble a real person."
    if is_celeba(source):
        metadata = f"license: other\nlicense_name: non-commercial-research\nlicense_link: {CELEBA_PAGE}"
        weights = (
            f"The weights were trained on [CelebA]({CELEBA_PAGE}). Its images are for non-commercial research only. "
            "Use the weights for non-commercial research only."
        )
    elif source.get("kind") == "drawn" and not start:
        metadata = "license: apache-2.0"
        weights = (
            "The weights have the same licence. They were trained on drawn faces, which dcgan_jax paints itself and which carry "
            "no rights of others."
        )
    else:
        metadata = "license: other"
        weights = (
            "The weights have no licence yet. The rights of the training images may restrict their use. "
            "State the licence here before you publish the weights. If the images are CelebA's, in any form, the weights are for "
            "non-commercial research only."
        )
    if start:
        weights += f" Training began with the weights of `{start}`. "
        if config.run.start in pretrained.NAMES:  # a folder of the user's may have the same name
            weights += f"The weights named `{start}` inside dcgan_jax add no restriction."
        else:
            weights += "The rights of its training images apply as well."
    return _Rights(metadata, f"{CODE_LICENCE} {weights} {nobody}")


def is_celeba(source: dict) -> bool:
    """Whether a run's images are from CelebA, according to their source in data.json.

    The name counts as well: the article's zip, processed-celeba-small.zip, is from CelebA, but is_celeba is False for it because
    the published crops do not apply.
    """
    return source.get("is_celeba") is True or "celeba" in source["name"].lower()


def _describe_command(ask: Export) -> str:
    words = ["python", "-m", "dcgan_jax.export"]
    for field in dataclasses.fields(ask):
        value = getattr(ask, field.name)
        words += [f"--{field.name}", str(value)] if value != field.default else []
    return shlex.join(words)
