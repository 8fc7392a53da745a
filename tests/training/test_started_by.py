"""Who trains together: what srun, torchrun and plain python say, and what does not fit."""

import pytest

from lab.base.errors import UserError
from lab.cluster.ranks import Ranks, detect, tasks_of_nodes
from lab.experiment.compose import settings_of
from lab.experiment.settings import TrainSettings
from lab.experiment.setup import Setup
from lab.training.planned import processes

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "localhost,n[7-8]",
}
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
}


def test_plain_python_is_one_process() -> None:
    assert detect({}) == Ranks()


def test_a_batch_script_without_srun_is_one_process() -> None:
    assert detect({"SLURM_JOB_ID": "12", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == Ranks()


def test_an_interactive_step_of_a_job_of_four_tasks_is_one_process() -> None:
    step = {"SLURM_JOB_ID": "12", "SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    assert detect(step | {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}) == Ranks(started_by="srun")
    four = STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"}
    assert (detect(four).rank, detect(four).world) == (3, 4)


def test_a_task_of_srun_knows_its_place() -> None:
    ranks = detect(STEP)
    assert (ranks.rank, ranks.world, ranks.local_rank, ranks.local_world, ranks.nodes) == (3, 4, 1, 2, 2)
    assert (ranks.started_by, ranks.address) == ("srun", "localhost")


def test_steps_and_jobs_on_one_node_meet_at_ports_of_their_own() -> None:
    ports = {
        detect(STEP | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)}).port
        for job in (12, 13)
        for step in (0, 1)
    }
    assert len(ports) == 4


def test_an_address_that_is_given_is_taken() -> None:
    ranks = detect(STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (ranks.address, ranks.port) == ("10.0.0.1", 4000)


def test_where_node_names_do_not_resolve_srun_says_where_it_was_started() -> None:
    ranks = detect(STEP | {"SLURM_STEP_NODELIST": "no-such-host[03-04]", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.9"})
    assert ranks.address == "127.0.0.9"


def test_torchrun_is_known() -> None:
    assert detect(TORCHRUN) == Ranks(1, 2, 1, 2, "torchrun", "node0", 29500)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (STEP | {"SLURM_NTASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, "3 tasks as 2,1 on its nodes"),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "4"} | {"SLURM_NTASKS": "2"}, "2 tasks as 4 on its nodes"),
        (STEP | {"MASTER_PORT": "http"}, "MASTER_PORT is http in the environment"),
        (TORCHRUN | {"RANK": "one"}, "RANK is one in the environment"),
        ({key: value for key, value in TORCHRUN.items() if key != "LOCAL_RANK"}, "LOCAL_RANK is not set"),
        ({key: value for key, value in TORCHRUN.items() if key != "MASTER_ADDR"}, "MASTER_ADDR is not"),
    ],
)
def test_an_environment_that_does_not_fit_together_is_refused(environment: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        detect(environment)


@pytest.mark.parametrize(
    ("text", "counts"), [("2(x2)", [2, 2]), ("4", [4]), ("2(x3),1", [2, 2, 2, 1]), ("", []), ("two", [])]
)
def test_tasks_of_nodes_are_read_as_slurm_writes_them(text: str, counts: list[int]) -> None:
    assert tasks_of_nodes(text) == counts


SRUN_TWO = Ranks(0, 2, 0, 2, "srun")


def test_two_tasks_without_a_strategy_would_train_twice_and_are_refused() -> None:
    with pytest.raises(UserError, match=r"srun started 2 processes, and each would train the whole run"):
        processes(SRUN_TWO, 1, "single", "cpu")


def test_tasks_that_are_not_one_a_device_are_refused() -> None:
    with pytest.raises(UserError, match=r"srun started 2 processes on a node and trainer.devices is 4"):
        processes(SRUN_TWO, 4, "ddp", "cpu")
    with pytest.raises(UserError, match=r"srun started 1 processes on a node and trainer.devices is 2"):
        processes(Ranks(started_by="srun"), 2, "ddp", "cpu")


def test_several_devices_without_a_strategy_are_refused() -> None:
    with pytest.raises(UserError, match=r"trainer.devices is 2 and trainer.strategy single"):
        processes(Ranks(), 2, "single", "cpu")


@pytest.mark.parametrize(
    ("ranks", "devices", "count"), [(SRUN_TWO, "auto", 1), (SRUN_TWO, 2, 1), (Ranks(), 2, 2), (Ranks(), "auto", 1)]
)
def test_processes_are_started_only_where_nobody_has(ranks: Ranks, devices: int | str, count: int) -> None:
    assert processes(ranks, devices, "ddp", "cpu") == count


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ("trainer=fsdp", "trainer.devices=2", "optimizer=muon"),
            "trainer=fsdp .* which .*muon needs whole",
        ),
        (("trainer.strategy=zero",), "trainer.strategy is 'zero': give single, ddp or fsdp"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_process_is_started(overrides: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Setup(settings_of("train", TrainSettings, ["experiment=smoke", "trainer.accelerator=cpu", *overrides]))
