"""Make derived runs: the weights of a run, read otherwise."""

from pathlib import Path
from typing import Any

from lab.base.errors import UserError
from lab.base.files import refuse_link
from lab.base.parts import build
from lab.base.settings import Settings
from lab.runs.derived import Derived, extended_identity
from lab.runs.identity import digest
from lab.runs.run import extension_label, open_model


def extend(path: str, extension: Settings, command: str) -> Derived:
    """The derived run of a finished run and an extension: made, or found.

    Its identity is the parent's with the extension; its directory stands beside the parent's.

    Raises:
        UserError: the parent is missing, unfinished or damaged, or the extension does not fit it.
    """
    where = Path(path)
    if where.is_symlink() or where.name in ("", ".."):  # beside the run itself, not beside what leads to it
        where = where.resolve()
    parent = open_model(where)
    parent.check()
    if parent.manifest["state"] != "finished":
        raise UserError(f"{parent.path} is unfinished: train it to its end with the command that began it")
    step = parent.manifest["parent"]["step"] if isinstance(parent, Derived) else parent.steps
    checkpoint = parent.checkpoint(step)
    decoder = parent.decoder(step)
    build("extension", extension)(decoder.position)  # what does not fit is refused before anything is written
    extensions = [each.plain() for each in [*parent.extensions, extension]]
    identity = extended_identity(parent, extension)
    found = digest(identity)
    run = Derived(parent.path.parent / f"{parent.path.name}-{getattr(extension, 'name', '')}-{found[:8]}")
    refuse_link(run.path)
    if run.path.exists():
        run.check()
        if run.digest != found:
            raise UserError(f"{run.path} holds a different run; move it away")
        print(f"{run.path} is there")
        return run
    manifest: dict[str, Any] = {
        "kind": "derived",
        "digest": found,
        "identity": identity,
        "state": "finished",
        "parent": {
            "name": parent.path.name,
            "digest": parent.digest,
            "step": step,
            "weights_sha256": checkpoint.weights_digest(),
        },
        "extensions": extensions,
        "command": command,
    }
    run.create(parent.config, manifest)
    print(f"{run.path}: {parent.label} read with {extension_label(extension)}")
    return run
