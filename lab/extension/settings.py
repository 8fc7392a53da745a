"""Keys of the extensions. No torch here."""

from typing import Literal

from lab.base.parts import part
from lab.base.settings import Positive, Settings, key


@part("extension", "lab.extension.temperature:Temperature")
class TemperatureSettings(Settings):
    """A factor on the attention logits, before a bias is added to them."""

    name: Literal["temperature"] = "temperature"
    temperature: Positive = key("factor on the logits; 1 changes nothing")
