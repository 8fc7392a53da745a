"""Make derived runs: the weights of a run, read otherwise."""

from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import new_folder
from lab.base.interruption import Interruption
from lab.base.tables import write_table
from lab.experiment.extend_settings import ExtendSettings
from lab.experiment.searching import Found, completed
from lab.model.precision import device_of
from lab.runs.derived import Derived, extended_identity
from lab.runs.extensions import ExtensionSettings, extended, write_tensor
from lab.runs.finding import runs_of
from lab.runs.identity import digest
from lab.runs.model import Model
from lab.runs.run import open_model


def extend_all(settings: ExtendSettings, command: str) -> list[Derived]:
    """The derived runs of all runs that are named, as :func:`extend` makes them; all are opened before the first is.

    Raises:
        UserError: as :func:`extend`, or a pattern names no run.
        Interrupted: on a signal.
    """
    if isinstance(settings.run, str) and Path(settings.run).is_dir():
        return [extend(settings, settings.run, command)]
    return [extend(settings, str(each.path), command) for each in runs_of(settings.run)]


def extend(settings: ExtendSettings, run: str, command: str) -> Derived:
    """The derived run of a finished run and an extension: made, or found.

    Its identity is the parent's with the extension; its directory stands beside the parent's. What the extension leaves
    open is found first, and is in the identity by value.

    Raises:
        UserError: the parent is missing, unfinished or damaged, or the extension does not fit it.
        Interrupted: on a signal.
    """
    where = Path(run)
    if where.is_symlink() or where.name in ("", ".."):  # beside the run itself, not beside what leads to it
        where = where.resolve()
    parent = open_model(where)
    parent.check()
    parent.must_foretell("an extension")
    if parent.manifest["state"] != "finished":
        raise UserError(f"{parent.path} is unfinished: train it to its end with the command that began it")
    asked = {"extension": settings.extension.plain(), "vectors": settings.vectors.plain()}
    asked |= {"search": settings.search.identity(), "evaluation": settings.evaluation.plain()}
    for path in parent.derived():  # a search is not made twice
        found = Derived(parent.path.parent / path.name)
        # What is put together depends on what has been searched since.
        if found.manifest.get("asked") == asked and asked["extension"].get("search") != "found":
            found.check()
            print(f"{found.path} is there")
            return found
    step = parent.manifest["parent"]["step"] if isinstance(parent, Derived) else parent.steps
    checkpoint = parent.checkpoint(step)
    device = device_of(settings.accelerator, settings.threads)
    with Interruption() as interruption, parent.locked():
        interruption.install()
        complete = completed(parent, step, settings, device, interruption)
    with new_folder(parent.path.parent / f".{parent.path.name}.extension.new") as beside:
        extension = complete.extension
        for table in complete.tables:
            extension = extension.with_values(table_sha256=write_tensor(table, beside))
        # What does not fit is refused before anything is there.
        extended(parent.decoder(step), [extension], [beside])
        return _made(parent, step, checkpoint.weights_digest(), extension, complete, beside, command, asked)


def _made(
    parent: Model,
    step: int,
    weights: str,
    extension: ExtensionSettings,
    found: Found,
    beside: Path,
    command: str,
    asked: dict[str, Any],
) -> Derived:
    identity = extended_identity(parent, extension)
    name = digest(identity)
    run = Derived(parent.path.parent / f"{parent.path.name}-{extension.name}-{name[:8]}")
    if run.stands(name):
        print(f"{run.path} is there")
        return run
    if found.rows:
        write_table(beside / "search.csv", found.rows)
    manifest: dict[str, Any] = {
        "kind": "derived",
        "digest": name,
        "identity": identity,
        "state": "finished",
        "parent": {"name": parent.path.name, "digest": parent.digest, "step": step, "weights_sha256": weights},
        "extensions": [each.plain() for each in [*parent.extensions, extension]],
        "command": command,
        "asked": asked,
        "found": found.record,
    }
    run.create(parent.config, manifest, beside)
    print(f"{run.path}: {parent.label} read with {extension.label}")
    return run
