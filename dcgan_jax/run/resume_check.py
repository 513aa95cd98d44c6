"""Checks whether a run may be resumed with the settings and images of this start; else names the differences."""

from collections.abc import Collection
from pathlib import Path

from dcgan_jax import config as configuration
from dcgan_jax.command_lines import format_flags, format_start, format_training_command
from dcgan_jax.config import Config, UserError
from dcgan_jax.data.pack_index import find_changed_labels, is_same_data

MOST_SHOWN = 4  # differing settings in a message


def check_resumable(path: Path, stored: Config, trained_on: dict, config: Config, data_facts: dict) -> None:
    """Checks whether the run at path may go on with other settings and images.

    Args: stored, trained_on: the run's config.json and data.json; config, data_facts: those of this start.
    Raises: UserError with the differences, and with the flags that undo them.
    """
    now, before = configuration.flatten(config), configuration.flatten(stored)
    free = configuration.list_resumable_fields(config)
    if not configuration.has_length(stored):  # it has made no step
        free |= set(configuration.LENGTHS)
    differing = [name for name in now if name not in free and now[name] != before[name]]
    if "minutes" in differing:  # compare the lengths as they were given
        differing = [name for name in differing if name not in configuration.LENGTHS] + _list_given_lengths(before)
    if differing:
        shown = ", ".join(_show_change(name, before, now) for name in differing[:MOST_SHOWN])
        shown += f" and {len(differing) - MOST_SHOWN} more" if len(differing) > MOST_SHOWN else ""
        shown += (
            " (the learning rate decays over the length, so it is fixed)"
            if set(configuration.LENGTHS) & set(differing) and config.optimizer.lr_decay != "none"
            else ""
        )
        remedy = _format_resume(config, differing, before)
        raise UserError(
            f"{path} was started with other settings: {shown}. Resume it with {remedy}, give another `name`, or move it "
            f"away{_propose_start(path, config, differing)}"
        )
    if not is_same_data(trained_on, data_facts):
        raise UserError(
            f"{path} was trained on other images: {trained_on['source']['name']} ({trained_on['count']:,}), "
            f"now {data_facts['source']['name']} ({data_facts['count']:,}). Resume it with the same `data`, give "
            f"another `name`, or move it away{_propose_start(path, config)}"
        )
    if changed := find_changed_labels(trained_on, data_facts, config.nets.condition):
        raise UserError(
            f"{path} was trained with other labels of {', '.join(changed[:4])}: restore its table, give another `name`, or "
            f"move it away{_propose_start(path, config)}"
        )


def _list_given_lengths(values: dict) -> list[str]:
    """Returns the name of the length that a run was started with."""
    return [name for name in reversed(configuration.LENGTHS) if values[name] is not None][:1]  # minutes before their kimg


def _show_change(name: str, before: dict, now: dict) -> str:
    if name in configuration.LENGTHS and now[name] is None:
        return f"{name} was {before[name]}, is now {' '.join(f'{n} {now[n]}' for n in _list_given_lengths(now))}"
    return f"{name} was {_show(before[name])}, is now {_show(now[name])}"


def _show(value: object) -> object:
    if value in ("", ()):
        return "empty"
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _format_resume(config: Config, differing: list[str], before: dict) -> str:
    """Formats the flags that undo the differences; for many, the whole command."""
    # A run has one length: a restored one replaces the one that is given now.
    lengths = configuration.LENGTHS if set(differing) & set(configuration.LENGTHS) else ()
    undone = {name: before[name] for name in differing}
    if len(differing) > MOST_SHOWN:
        return format_training_command(configuration.replace(config, **{name: before[name] for name in lengths} | undone))
    return format_flags(undone)


def _propose_start(path: Path, config: Config, differing: Collection[str] = ()) -> str:
    """Proposes a new run with the weights of this one, where that is possible: the networks are equal and it has a checkpoint."""
    if set(differing) & set(configuration.list_network_fields()) or not any(path.glob("checkpoints/[0-9]*")):
        return ""
    return f". To train on from its weights, add {format_start(config, str(path))}"
