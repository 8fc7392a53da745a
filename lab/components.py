"""From a node of the configuration to the object it describes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import get_object

from lab.errors import UserError


def find(node: Mapping[str, Any], *arguments: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What the node's ``_target_`` names, and the keys to call it with beside ``arguments``.

    Stored configurations pass through here too, so only the lab's own code is ever called.

    Raises:
        UserError: the target is not in ``lab.``, does not exist, or does not take these keys.
    """
    keys = {str(key): value for key, value in node.items()}
    target = keys.pop("_target_", None)
    if not isinstance(target, str) or not target.startswith("lab."):
        raise UserError(f"_target_ is {target!r} in the configuration; only targets inside lab. are accepted")
    try:
        build = get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_={target} does not exist; see conf/ for those that do") from error
    try:
        inspect.signature(build).bind(**keys, **dict.fromkeys(arguments))
    except TypeError as error:
        raise UserError(f"{target}: {error}; add, remove or rename that key") from None
    return build, keys


def make(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Call the node's ``_target_`` with its other keys and ``arguments``. Raises as :func:`find`."""
    build, keys = find(node, *arguments)
    return build(**keys, **arguments)
