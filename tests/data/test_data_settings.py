"""What the settings of data and corpora refuse, before anything of them is built: each with its key and its value."""

import pytest

from lab.base.errors import UserError
from lab.experiment.compose import settings_of
from lab.experiment.settings import ScoreSettings, TrainSettings

FILES = ("data=files", "data.corpus.train=a.txt", "data.corpus.validation=b.txt", "data.corpus.test=c.txt")
REFUSED = {
    "data.corpus.on_error=ignore": "data.corpus.on_error is 'ignore': give stop or skip",
    "data.seed=-1": "data.seed is -1: give 0 or more",
    f"data.seed={2**64}": f"data.seed is {2**64}: give ",
    "data.tile=0": "data.tile is 0: give 1 or more",
    "data.tile=1.5": "data.tile is 1.5: give a whole number",
    "data.lanes=0": "data.lanes is 0: give 1 or more",
    "data.workers=-1": "data.workers is -1: give 0 or more",
    "data.workers=100000": "data.workers is 100000: give 1024 or less",
    "data.mode=both": "data.mode is 'both': give stream or blocks",
    "data.weights={web:much}": "data.weights.web is 'much': give a number",
    "scale.context=0": "scale.context is 0: give ",
    "scale.micro_batch=0": "scale.micro_batch is 0: give 1 or more",
    "scale.validation_blocks=0": "scale.validation_blocks is 0: give 1 or more",
}
REFUSED_OF_FILES = {
    "data.corpus.text_field=null": "data.corpus.text_field is null: give ",
    "data.corpus.text_field=''": "data.corpus.text_field is '': give ",
    "data.corpus.small_bytes=-1": "data.corpus.small_bytes is -1: give 0 or more",
    "data.corpus.small_bytes=0.5": "data.corpus.small_bytes is 0.5: give a whole number",
    "data.corpus.longest_document_bytes=0": "data.corpus.longest_document_bytes is 0: give 1 or more",
    "data.corpus.held_out=0": "data.corpus.held_out is 0: give a number above 0",
    "data.corpus.held_out=0.5": "data.corpus.held_out is 0.5: give a number below 0.5",
    "data.corpus.least_bytes_per_second=-1": "data.corpus.least_bytes_per_second is -1: give 0 or more",
    "data.lanes=many": "data.lanes is 'many': give ",
    "data.corpus.timeout_seconds=0": "data.corpus.timeout_seconds is 0: give a number above 0",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_setting_of_the_data_that_makes_no_sense_is_refused_with_its_key(override: str) -> None:
    with pytest.raises(UserError) as refused:
        settings_of("train", TrainSettings, [override])
    assert str(refused.value).startswith(REFUSED[override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("override", REFUSED_OF_FILES)
def test_a_setting_of_files_that_makes_no_sense_is_refused_with_its_key(override: str) -> None:
    with pytest.raises(UserError) as refused:
        settings_of("train", TrainSettings, [*FILES, override])
    assert str(refused.value).startswith(REFUSED_OF_FILES[override])


def test_files_that_are_scored_have_keys_of_their_own() -> None:
    with pytest.raises(UserError, match=r"evaluation\.corpus\.text_field is ''"):
        settings_of("extrapolate", ScoreSettings, ["evaluation=files", "evaluation.corpus.text_field=''"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("years=1_000_000_000_000", "years is 1000000000000: give 1000 or less"),
        ("wordings=1_000_000_000", "wordings is 1000000000: give 10000 or less"),
        ("orders=1_000_000_000", "orders is 1000000000: give 10000 or less"),
        ("rich_wordings=10_001", "rich_wordings is 10001: give 10000 or less"),
        ("rich_orders=10_001", "rich_orders is 10001: give 10000 or less"),
        ("entry_filler=1_000_000_000", "entry_filler is 1000000000: give 10000 or less"),
        ("question_filler=1_000_000_000", "question_filler is 1000000000: give 10000 or less"),
    ],
)
def test_numbers_of_biographies_that_would_fill_the_memory_are_refused(override: str, told: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.corpus\.{told}"):
        settings_of("train", TrainSettings, ["data=biographies", f"data.corpus.{override}"])
