"""From a node of the configuration to the object it describes."""

from collections.abc import Mapping
from typing import Any

from hydra.utils import get_object

from lab.errors import UserError


def make(node: Mapping[str, Any], **arguments: Any) -> Any:
    """Call the node's ``_target_`` with its other keys and ``arguments``.

    Stored configurations pass through here too, so only the lab's own code is ever called.

    Raises:
        UserError: the target is not in ``lab.``, does not exist, or does not take the keys.
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
        return build(**keys, **arguments)
    except TypeError as error:
        # Only a call that does not fit; a TypeError from inside has a traceback of more than this frame.
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise
        raise UserError(f"{target}: {error}; remove or mend that key") from error
