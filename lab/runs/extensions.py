"""Extensions as a run directory has them: their settings, in order, and what they do to a decoder. No torch here."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.base.errors import UserError
from lab.base.files import make_folder, read_stored, write_whole
from lab.base.parts import build, find
from lab.base.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from lab.model.decoder import Decoder

TABLES = "tables"  # the folder of a run directory


class ExtensionSettings(Settings):
    """Keys of one extension; the methods stand in lab/extension/."""

    name: str

    @property
    def logit_factor(self) -> float | None:
        """The factor that all logits have by it, None if it changes more than that and the window."""
        return None

    def window_of(self, window: int | None) -> int | None:
        """The window that it makes of one."""
        return window

    @property
    def table(self) -> str | None:
        """The sha256 of the table that it needs, if it does; a run has it as a file: see :func:`write_tensor`."""
        return None

    @property
    def turns(self) -> bool:
        """Whether RoPE has other frequencies by it; then :meth:`rope_abroad` tells which."""
        return False

    def rope_abroad(self, base: float, head_dim: int) -> dict[str, Any]:
        """What transformers calls ``rope_parameters``, with ``max_position_embeddings``.

        Raises:
            UserError: transformers has no such rule.
        """
        raise NotImplementedError

    @property
    def label(self) -> str:
        """E.g. ``temperature=1.2``."""
        told = ",".join(
            f"{name}={f'{value:g}' if isinstance(value, float) else value}" for name, value in self.arguments().items()
        )
        return told if told.startswith(f"{self.name}=") else f"{self.name}({told})"


def read_extensions(stored: Sequence[Mapping[str, Any]], source: str) -> list[ExtensionSettings]:
    """The settings of extensions as a manifest has them. Raises UserError, naming the ``source``, if they are not."""
    try:
        found: list[Any] = [find("extension", each.get("name")).settings.check(each, "extension") for each in stored]
    except UserError as error:
        raise UserError(f"{source}: {'; '.join(error.args)}; restore it") from None
    return found


def extended(decoder: "Decoder", extensions: Sequence[ExtensionSettings], folders: Sequence[Path] = ()) -> "Decoder":
    """A decoder that the extensions have changed, in order.

    Args:
        folders: run directories that have their tables.
    """
    for each in extensions:
        given = {} if each.table is None else {"table": read_tensor(each.table, folders)}
        build("extension", each, **given)(decoder)
    return decoder


def write_tensor(tensor: "Tensor", run: Path) -> str:
    """Write a table to a run directory, in float32; its sha256, by which it is called."""
    from safetensors.torch import save

    content = save({"table": tensor.float().contiguous()})
    digest = hashlib.sha256(content).hexdigest()
    make_folder(run / TABLES)
    write_whole(run / TABLES / f"{digest}.safetensors", content)
    return digest


def read_tensor(digest: str, folders: Sequence[Path], of: str = "an extension") -> "Tensor":
    """A table of one of several run directories. Raises UserError if none has it, or it is no longer what it was.

    Args:
        of: what has it, for the message.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = next((path for path in table_files(folders) if path.stem == digest), None)
    if path is None:
        raise UserError(f"{folders[0] / TABLES}: lacks the table {digest[:12]} of {of}; restore it")
    try:
        content = read_stored(path, largest=2**34)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({str(error.strerror).lower()}); restore it") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path} is no longer the table that its name says; restore it")
    try:
        return load(content)["table"]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:200]}); restore it") from None


def copy_tables(extensions: Sequence[Mapping[str, Any]], folders: Sequence[Path], run: Path) -> None:
    """Put the tables of stored extensions into another run directory."""
    for each in read_extensions(extensions, f"{folders[0]}" if folders else ""):
        if each.table is not None:
            write_tensor(read_tensor(each.table, folders), run)


def table_files(folders: Sequence[Path]) -> list[Path]:
    """The tables of run directories."""
    return [path for folder in folders for path in sorted((folder / TABLES).glob("*.safetensors"))]
