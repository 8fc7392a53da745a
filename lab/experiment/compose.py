"""From the command line and conf/ to checked settings; and what ``--help`` says of them. No torch here."""

import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lab.base.commandline import run_command
from lab.base.errors import UserError
from lab.base.progress import say_starting
from lab.base.settings import Settings, explained, flatten

TO_COME = "... (must be given)"
Checked = TypeVar("Checked", bound=Settings)
# Groups of which there is one choice; of others there may be several.
ONE = (
    *(
        "adapter",
        "data",
        "evaluation",
        "extension",
        "method",
        "model",
        "objective",
        "optimizer",
        "scale",
        "schedule",
        "scoring",
        "start",
    ),
    *("study", "tokenizer", "trainer"),
)


def configuration_folder() -> str:
    """``lab/conf`` in an installed wheel, ``conf`` at the top of a source tree."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def composed(name: str, overrides: Sequence[str], folder: str | None = None) -> Any:
    """conf/<name>.yaml as overrides change it, an omegaconf DictConfig.

    Args:
        folder: a folder with further choices, searched before conf/.

    Raises:
        UserError: a line for each override whose key does not exist; a choice is named twice; or a sweep.
        HydraException: an override that cannot be read, or a choice that does not exist.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import ConfigCompositionException

    refuse_twice(overrides)
    refuse_several(overrides)
    refuse_nothing(overrides)
    overrides = of_child(overrides)
    for override in overrides:
        if first_of(override) != override:
            key, _, values = override.lstrip("+").partition("=")
            raise UserError(
                f"{override.lstrip('+')}: a list is written {key}=[{values}]; a run of each value is for lab.train -m"
            )
    search = [f"hydra.searchpath=[file://{Path(folder).resolve()}]"] if folder else []
    with initialize_config_dir(configuration_folder(), version_base="1.3"):
        try:
            return compose(name, [*overrides, *search])
        except ConfigCompositionException as error:
            if not any(each in str(error) for each in ("Could not override", "You must specify")):
                raise
            # Hydra stops at the first; added by force, and without the groups that have no choice, all of them reach
            # the settings, which tell all.
            chosen = {each.partition("=")[0] for each in overrides}
            left = [f"~{group}" for group in groups_of(name, without_choice=True) if group not in chosen]
            return compose(name, [*(_forced(each) for each in overrides), *left, *search])


def of_child(overrides: Sequence[str]) -> list[str]:
    """Overrides as they are given, but for a run that starts from another: its keys are those of the parent's parts,
    which are not known yet, so that Hydra must take any; the settings refuse what nothing reads."""
    return [_forced(each) for each in overrides] if "start=run" in overrides else list(overrides)


def as_typed(arguments: Sequence[str]) -> list[str]:
    """What was typed, of what :func:`of_child` has made of it."""
    return [each.removeprefix("++") for each in arguments] if "start=run" in arguments else list(arguments)


def first_of(override: str) -> str:
    """An override with the first of the values that it sweeps over; itself if it is no sweep, or cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
        sweeps = parsed.is_sweep_override()
    except HydraException:
        return override  # told with its reason where it is composed
    return f"{parsed.get_key_element()}={next(iter(parsed.sweep_string_iterator()))}" if sweeps else override


def refuse_twice(overrides: Iterable[str]) -> None:
    """Raises UserError for a choice that one override names twice: it would be taken once, without a word."""
    for each in overrides:
        group, _, choice = each.partition("=")
        listed = re.fullmatch(r"\[([^\[\]]*)\]", choice.strip())
        names = [name.strip() for name in listed[1].split(",")] if listed else []
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None and (Path(configuration_folder()) / group).is_dir():
            raise UserError(f"{group} names {twice} twice: name each once")


def refuse_several(overrides: Iterable[str]) -> None:
    """Raises UserError for several choices of what there is one of."""
    for each in overrides:
        group, _, choice = each.partition("=")
        listed = re.fullmatch(r"\[([^\[\]]*,[^\[\]]*)\]", choice.strip())
        if listed and group in ONE and (Path(configuration_folder()) / group).is_dir():
            first = listed[1].split(",")[0].strip()
            raise UserError(f"{each} names several, and there is one at a time: give {group}={first}, or another")


def refuse_nothing(overrides: Iterable[str]) -> None:
    """Raises UserError for a choice of nothing, which Hydra cannot read."""
    for each in overrides:
        group, _, choice = each.partition("=")
        if choice.strip() in ("", "null") and group in ONE and (Path(configuration_folder()) / group).is_dir():
            raise UserError(f"{each} chooses nothing: leave {group} out, or name one of conf/{group}")


def _forced(override: str) -> str:
    key = override.partition("=")[0]
    group = (Path(configuration_folder()) / key.partition("@")[0]).is_dir()
    if group or override[:1] in "+~-" or "=" not in override or key.startswith("hydra.") or not key:
        return override
    return f"++{key.replace('/', '.')}{override.removeprefix(key)}"  # a group that does not exist is a key, too


def checked(settings: type[Checked], given: Any, literal: dict[str, str] | None = None) -> Checked:
    """The settings of a composed configuration; ``literal`` texts are taken as they are.

    Raises:
        UserError: a line for each key that is wrong, or still to be given.
    """
    from omegaconf import OmegaConf

    raw: Any = OmegaConf.to_container(given, resolve=False)
    missing = [key for key in missing_keys(raw) if key not in (literal or {})]
    following = {key for key, value in flatten(raw).items() if isinstance(value, str) and value.startswith("${")}
    if missing:  # told with whatever else is wrong; what follows cannot be resolved
        settings.check(_without(raw, missing) | (literal or {}), following=following)
        raise UserError(*(f"{key} must be given: add {key}=... to the command" for key in missing))
    resolved: Any = OmegaConf.to_container(given, resolve=True)
    return settings.check(resolved | (literal or {}), following=following)


def _without(tree: Mapping[str, Any], keys: Collection[str], prefix: str = "") -> dict[str, Any]:
    """A configuration without some of its keys, which are dotted."""
    return {
        name: _without(value, keys, f"{prefix}{name}.") if isinstance(value, Mapping) else value
        for name, value in tree.items()
        if f"{prefix}{name}" not in keys
    }


def missing_keys(given: Mapping[str, Any]) -> list[str]:
    """The keys that have no value yet (``???`` in conf/)."""
    return [key for key, value in flatten(given).items() if value == "???"]


def settings_of(name: str, settings: type[Checked], overrides: Sequence[str]) -> Checked:
    """Both of the above."""
    return checked(settings, composed(name, overrides))


def run_composed(
    name: str,
    settings: type[Checked],
    act: Callable[[Checked], None],
    description: str,
    literal: Sequence[str] = (),
    arguments: Sequence[str] | None = None,
) -> None:
    """A command whose arguments are overrides of conf/<name>.yaml: check them, call ``act``, tell mistakes.

    Args:
        description: what ``--help`` begins with.
        literal: keys whose text is taken as it is typed, never read by Hydra's grammar.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)

    def main() -> None:
        texts, rest = take_literal(given, literal)
        if wants_help(rest):
            print_help(name, settings, description, plain_overrides(rest))
            return
        folder, overrides = take_folder(rest, name)
        say_starting()
        act(checked(settings, composed(name, overrides, folder), texts))

    run_command(main)


def take_literal(given: Iterable[str], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The texts of ``KEY=TEXT`` for some keys, and the other arguments. Raises UserError for one given twice."""
    texts: dict[str, str] = {}
    rest = []
    for each in given:
        key, equals, text = each.partition("=")
        if equals and key in keys:
            if key in texts:
                raise UserError(f"{key} is given twice: give it once")
            texts[key] = text
        else:
            rest.append(each)
    return texts, rest


def wants_help(given: Sequence[str]) -> bool:
    return any(each in ("--help", "-h") for each in given)


def plain_overrides(given: Sequence[str]) -> list[str]:
    return [each for each in given if not each.startswith("-")]


def take_folder(given: Sequence[str], command: str) -> tuple[str | None, list[str]]:
    """``--config-dir FOLDER`` and the overrides. Raises UserError for another option."""
    folder, rest, arguments = None, [], iter(given)
    for each in arguments:
        if each in ("--config-dir", "-cd"):
            folder = next(arguments, None)
            if folder is None or not Path(folder).is_dir():
                raise UserError(f"--config-dir is {folder}: name a folder with choices laid out as in conf/")
        elif each.startswith("-"):
            raise UserError(f"{each}: no such option; give key=value, --config-dir FOLDER or --help")
        else:
            rest.append(each)
    return folder, rest


def choices(group: str, folder: Path | None = None) -> list[str]:
    """The choices of a group."""
    return sorted(path.stem for path in ((folder or Path(configuration_folder())) / group).glob("*.yaml"))


def groups_of(name: str, without_choice: bool = False) -> list[str]:
    """The groups that conf/<name>.yaml chooses from; or those of them that a command must choose of."""
    import yaml

    content = yaml.safe_load((Path(configuration_folder()) / f"{name}.yaml").read_text(encoding="utf-8"))
    named = [next(iter(each.items())) for each in content.get("defaults", []) if isinstance(each, dict)]
    chosen = [group for group, choice in named if choice == "???" or not without_choice]
    return [group for group in chosen if not group.startswith("override ")]


def print_help(name: str, settings: type[Settings], description: str, overrides: Sequence[str]) -> None:
    """What the command is for, its groups and choices, and every key with its value and explanation."""
    from omegaconf import OmegaConf

    if name == "train":
        overrides = [first_of(each) for each in overrides]  # of a sweep its first run is explained
    # Of a group that has no choice yet, the keys of its first are shown.
    unchosen = [
        group
        for group in groups_of(name, without_choice=True)
        if group not in {each.partition("=")[0] for each in overrides}
    ]
    given = composed(name, [*overrides, *(f"{group}={choices(group)[0]}" for group in unchosen)])
    raw: Any = OmegaConf.to_container(given, resolve=False)
    for key in missing_keys(raw):
        OmegaConf.update(given, key, TO_COME)  # Hydra's own sign for it would stop what follows it
    values: Any = OmegaConf.to_container(given, resolve=True)
    try:
        settings.check(values)
    except UserError as error:  # what is still to be given is no mistake yet
        wrong = [line for line in error.args if repr(TO_COME) not in line]
        if wrong:
            raise UserError(*wrong) from None
    rows = explained(settings, values)
    print(description.strip())
    if groups_of(name):
        print("\nChoices (group=choice):\n")
    nested = {"model": ("model/position", "model/attention")}
    for group in (each for top in groups_of(name) for each in (top, *nested.get(top, ()))):
        _print_wrapped(f"  {group}: ", ", ".join(choices(group)) + " (choose one)" * (group in unchosen))
    if name == "train":
        _print_wrapped("  hydra/launcher: ", "slurm")
    print("\nKeys (key=value), with the values of the choices made so far:\n")
    for key, value, explanation in rows:
        _print_wrapped(f"  {key}={_shown(value)}", f"  {explanation}", indent=6)


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _print_wrapped(head: str, text: str, indent: int = 4) -> None:
    print(textwrap.fill(head + text, width=110, subsequent_indent=" " * indent, break_on_hyphens=False))
