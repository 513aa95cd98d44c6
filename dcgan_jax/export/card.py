"""The model card of an export: README.md in the form of Hugging Face's."""

import dataclasses
import json
import shlex
from pathlib import Path

import dcgan_jax
from dcgan_jax.api import TrainedGAN
from dcgan_jax.config import SEEDS, Config, make_printable
from dcgan_jax.export import Export, Exported
from dcgan_jax.export.comparison import describe_comparison
from dcgan_jax.export.writing import describe_latent
from dcgan_jax.gan.state import LABELS, count_parameters
from dcgan_jax.presets import compare_with_preset
from dcgan_jax.run import online_score, workdir


def make_card(gan: TrainedGAN, ask: Export, usage: str, found: Exported) -> str:
    """README.md in the form of Hugging Face's model cards."""
    config, run = gan.config, Path(ask.run)
    nets, facts = config.nets, workdir.read_data_facts(run)
    parameters = count_parameters(gan.generator[0])
    fingerprint = make_printable(facts["fingerprint"], 100)
    changed = json.dumps({name: now for name, (_, now) in compare_with_preset(config).items() if name != "data"})
    scores = [line for line in online_score.read_score_lines(run) if line["step"] == gan.step]
    rows = "\n".join(f"- `{make_printable(json.dumps(line), 1000)}`" for line in scores) or "None of this checkpoint was taken."
    command = _describe_command(ask)
    conditions = (
        f"""
It can be conditioned on: {make_printable(", ".join(gan.attributes), 10_000)} (labels of 0 and 1 in this order). By default
a seed is conditioned on row seed % {LABELS} of `labels.npy`: the labels of a training image, chosen by chance.
"""
        if gan.attributes
        else ""
    )
    return f"""---
library_name: dcgan_jax
pipeline_tag: unconditional-image-generation
tags: [dcgan, gan, faces, {ask.format}]
license: other
---

# {make_printable(config.run.name, 100)}: a DCGAN of {nets.size} px, {ask.format}

{usage}{conditions}
Latents are {"N(0, 1)" if nets.latent_law == "normal" else "U(-1, 1)"}, {nets.latent_dim} numbers each; a seed's, from 0 to
{SEEDS - 1}, is `{describe_latent(gan)}`.

| | |
|---|---|
| preset | `{config.run.preset}`, changed: `{make_printable(changed, 1000)}` |
| step | {gan.step:,} |
| G | {parameters:,} parameters, stored as {ask.weights}: `{found.file.name}`, {found.size_bytes:,} bytes |
| equality | {describe_comparison(found.comparison, found.compute_dtype)} |
| images | {facts["count"]:,}, {make_printable(facts["source"]["name"], 200)}, fingerprint `{fingerprint}` |
| written by | dcgan_jax {dcgan_jax.__version__}: `{make_printable(command, 500)}` |

## Scores

{rows}

## Rights

{_describe_rights(config, facts["source"])}
"""


def _describe_rights(config: Config, source: dict) -> str:
    """What is known of the rights of all images that made the weights what they are."""
    start = make_printable(config.run.start, 200)
    if source.get("kind") == "drawn" and not start:
        return "Trained on drawn faces, which come with this software and carry no rights of others."
    others = f", and those of `{start}`, from which it began," if start else ""
    return (
        f"The images it was trained on{others} have rights of their own, which may bind what is made of them: CelebA's are "
        "for non-commercial research only. It draws faces of nobody, and may by chance resemble somebody."
    )


def _describe_command(ask: Export) -> str:
    words = ["python", "-m", "dcgan_jax.export"]
    for field in dataclasses.fields(ask):
        value = getattr(ask, field.name)
        words += [f"--{field.name}", str(value)] if value != field.default else []
    return shlex.join(words)
