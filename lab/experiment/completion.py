"""What may stand on a command's line, for the shell's completion. Neither Hydra nor torch here: a key press waits."""

from pathlib import Path

from lab.base.settings import Settings, kinds
from lab.experiment.compose import choices, configuration_folder, groups_of


def candidates(command: str, prefix: str) -> list[str]:
    """The overrides that begin with ``prefix``: ``group=choice`` and ``key=``; [] of a command without keys."""
    if not (Path(configuration_folder()) / f"{command}.yaml").is_file():
        return []
    name, equals, value = prefix.partition("=")
    nested = ["model/position", "model/attention"] if command in ("train", "plan") else []
    groups = [*groups_of(command), *nested]
    if equals and name not in groups:
        return []
    if equals:  # of a sweep, too: model=nope,rope; in brackets not, which the shell would have quoted
        begun = value.rfind(",") + 1
        return [f"{name}={value[:begun]}{each}" for each in choices(name) if each.startswith(value[begun:])]
    keys = [f"{key}=" for key in keys_of(settings_class(command))]
    return sorted({each for each in [*(f"{group}=" for group in groups), *keys] if each.startswith(name)})


def settings_class(command: str) -> type[Settings]:
    """The settings of a command."""
    from lab.experiment import settings
    from lab.experiment.analysis_settings import AnalyzeSettings
    from lab.experiment.edit_settings import EditSettings
    from lab.experiment.extend_settings import ExtendSettings
    from lab.experiment.lens_settings import LensSettings
    from lab.planning.settings import PlanSettings

    found: dict[str, type[Settings]] = {
        "train": settings.TrainSettings,
        "extrapolate": settings.ScoreSettings,
        "compare": settings.CompareSettings,
        "extend": ExtendSettings,
        "edit": EditSettings,
        "analyze": AnalyzeSettings,
        "generate": settings.GenerateSettings,
        "lens": LensSettings,
        "import_model": settings.ImportSettings,
        "export": settings.ExportSettings,
        "evaluate": settings.EvaluateSettings,
        "plan": PlanSettings,
    }
    return found[command]


def keys_of(kind: type[Settings], prefix: str = "") -> list[str]:
    """The dotted keys of settings, those of every part that may stand in them too."""
    found: list[str] = []
    for name, field in kind.model_fields.items():
        inside = kinds(field.annotation)
        if inside:
            found += [key for each in inside.values() for key in keys_of(each, f"{prefix}{name}.")]
        elif name != "name":
            found.append(f"{prefix}{name}")
    return list(dict.fromkeys(found))
