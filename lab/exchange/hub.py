"""Pretrained weights from the Hugging Face hub."""

import contextlib
import logging
import re
from pathlib import Path

from lab.base.errors import UserError

PATTERNS = ("config.json", "*.safetensors", "*.index.json", "tokenizer*", "generation_config.json")


def download(source: str) -> Path:
    """The folder of a model of the hub, in the hub's cache.

    Args:
        source: ``ORGANISATION/NAME``, or with a branch, tag or commit ``ORGANISATION/NAME@REVISION``.

    Raises:
        UserError: there is no such thing here nor there, or no way to it.
    """
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", source, re.ASCII)
    if found is None:
        raise UserError(f"{source}: no such folder or file, and no ORGANISATION/NAME of the hub")
    from huggingface_hub import HfApi, snapshot_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of each try it tells
    try:
        files = [each.rfilename for each in HfApi().model_info(found[1], revision=found[2], timeout=20).siblings or []]
        patterns = [*PATTERNS] if any(name.endswith(".safetensors") for name in files) else [*PATTERNS, "*.bin"]
        return Path(snapshot_download(found[1], revision=found[2], allow_patterns=patterns))
    except Exception as error:  # the library, and what it is made of, raise dozens of kinds
        with contextlib.suppress(Exception):  # what was downloaded before needs no network
            return Path(snapshot_download(found[1], revision=found[2], local_files_only=True))
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{source}: no such folder, and the hub does not give it ({reason}); without a network name a folder that "
            "was downloaded elsewhere"
        ) from None
