"""A launch: what is run in which order, what is left behind, and what a second call does."""

import dataclasses
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import yaml
from fake_head import FakeCommands, FakeJobs, heads, start_head
from moto.server import ThreadedMotoServer

from orchestrator.cli.sweep import main as sweep
from orchestrator.cluster import environment, jobs
from orchestrator.cluster.aws import launch as aws_launch
from orchestrator.cluster.aws.launch import Launch, check_aws_account, has_head, launch_and_follow
from orchestrator.cluster.config import Driver, RunName
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ClusterError, ConfigError, StorageError
from orchestrator.scheduling.resources import node_of
from orchestrator.search.samplers import Trial
from orchestrator.search.space import Space
from orchestrator.storage.filesystem import open_storage

AWS = Path(__file__).parents[2] / "clusters" / "aws.yaml"
OUTPUT = "s3://covid-bucket/runs/first"
CLUSTER = f"nnunet-{RunName(output=OUTPUT, study='').letters}"
IMAGE_OWNER_TEXT = AWS.read_text().replace("s3://FILL-IN-bucket", "s3://covid-bucket")


@pytest.fixture(scope="module")
def moto_port() -> Iterator[int]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def place(tmp_path: Path, moto_port: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an own home and working folder, an emulated AWS and a run that has written one table."""
    for name, value in {
        "HOME": str(tmp_path),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{moto_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        environment.AUTH_MODE: "disabled",
        environment.AUTH_TOKEN_PATH: str(tmp_path / ".ray" / "auth_token"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "RECONNECT_S", 0.0)
    # Machines of the tests before are gone.
    request = urllib.request.Request(f"http://127.0.0.1:{moto_port}/moto-api/reset", method="POST")
    urllib.request.urlopen(request).close()
    boto3.client("s3").create_bucket(Bucket="covid-bucket")
    open_storage(OUTPUT).write_bytes("tables/table4.md", b"| DSC |")
    return tmp_path


def filled_in(folder: Path) -> Path:
    path = folder / "aws.yaml"
    path.write_text(IMAGE_OWNER_TEXT.replace("FILL-IN-", "my-"))
    return path


def a_launch(path: Path, *, keep: bool = False, output: str = OUTPUT) -> Launch:
    arguments = ("--output", output, "--preset", "paper", "--only", "T1-*")
    run = RunName(output=output, study="x")
    driver = Driver(run=run, arguments=arguments, training_hours=420.0, keep=keep)
    return Launch(config=load_cluster(path).of_run(run), driver=driver)


def go(
    launch: Launch, *, commands: FakeCommands, head: FakeJobs | None, confirm: Callable[[str], bool] = lambda _: True
) -> tuple[bool, list[str]]:
    """Launch; `None` is a head whose dashboard is silent."""
    shown: list[str] = []

    def connect(address: str) -> FakeJobs:
        if head is None:
            raise ClusterError(f"{address}: no dashboard after 180 s")
        return head

    try:
        done = launch_and_follow(launch, confirm=confirm, show=shown.append, commands=commands, connect=connect)
    except BaseException as error:
        error.args = (*error.args, shown)
        raise
    return done, shown


def test_a_launch_goes_up_submits_follows_and_goes_down(place: Path) -> None:
    commands, head = FakeCommands(), FakeJobs()
    done, shown = go(a_launch(filled_in(place)), commands=commands, head=head)
    assert done
    assert commands.log == ["up", "dashboard", "tunnel closed", "down"]
    assert heads() == []
    assert shown[1:] == ["one", "two", "three"]
    assert head.entrypoint.startswith("bash -c ")
    assert "--only '\"'\"'T1-*'\"'\"' --cluster ~/nnunet-launch/cluster.yaml" in head.entrypoint


def test_a_sweep_goes_the_same_way_and_its_own_tables_are_fetched(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = AWS.parents[1] / "splits" / "presets.yaml"
    monkeypatch.setattr("orchestrator.cli.sweep.load_space", lambda path: Space(path=path, settings={}))
    monkeypatch.setattr("orchestrator.cli.sweep.first_trials", lambda _: [Trial(number=0, settings=())])
    commands, head = FakeCommands(), FakeJobs()
    monkeypatch.setattr(aws_launch, "ShellCommands", lambda: commands)
    monkeypatch.setattr(aws_launch, "RayJobs", lambda _: head)
    open_storage(f"{OUTPUT}/sweeps/rates").write_bytes("tables/trials.md", b"| trial |")
    words = ["--only", "T1-infection-fold0", "--preset", "paper", "--name", "rates", "--output", OUTPUT]
    words += ["--cluster", str(filled_in(place)), "--data", "s3://covid-bucket/data", "--space"]
    assert sweep([*words, str(place / "rates.yaml"), "--yes"]) == 2
    assert "rates.yaml: is not copied to rented machines" in capsys.readouterr().err
    assert commands.log == []
    assert sweep([*words, str(space), "--yes"]) == 0
    assert commands.log == ["up", "dashboard", "tunnel closed", "down"]
    assert "python -m orchestrator sweep --output s3://covid-bucket/runs/first --preset paper" in head.entrypoint
    assert "--space splits/presets.yaml --name rates --trials 16" in head.entrypoint
    assert [path.read_text() for path in place.rglob("runs/*/tables/*")] == ["| trial |"]
    start_head(cluster=f"nnunet-{RunName(output=f'{OUTPUT}/sweeps/rates', study='').letters}")
    assert sweep([*words, str(space), "--down"]) == 0
    assert (commands.log[4:], heads()) == (["down"], [])


def test_the_files_of_a_launch_hold_the_token_for_this_user_alone(place: Path) -> None:
    launch = a_launch(filled_in(place))
    go(launch, commands=FakeCommands(), head=FakeJobs())
    token = place / ".ray" / "auth_token"
    mounted = place / launch.folder / "mounted"
    assert (mounted / "auth_token").read_text() == token.read_text()
    assert [path.stat().st_mode & 0o777 for path in (token, mounted, mounted / "auth_token")] == [0o600, 0o700, 0o600]
    ray = yaml.safe_load((place / launch.folder / "ray.yaml").read_text())
    assert ray["file_mounts"]["~/nnunet-launch"] == str(mounted)
    assert all(Path(local).exists() for local in ray["file_mounts"].values())
    assert not any(".venv" in local for local in ray["file_mounts"].values())


def test_the_driver_on_the_head_gets_a_cluster_that_exists_and_may_grow(place: Path) -> None:
    launch = a_launch(filled_in(place))
    go(launch, commands=FakeCommands(), head=FakeJobs())
    config = load_cluster(place / launch.folder / "mounted" / "cluster.yaml")
    assert (config.kind, config.address, config.provider) == ("existing", "auto", "aws")
    # All that a schedule knows of a machine.
    assert (
        [node_of(pool) for pool in config.node_pools()] == [node_of(pool) for pool in launch.config.node_pools()] != []
    )
    assert config.cpus_per_training == 7


def test_a_running_driver_is_attached_to_without_touching_its_head(place: Path) -> None:
    launch = a_launch(filled_in(place))
    commands, head = FakeCommands(), FakeJobs(states={launch.submission_id: "RUNNING"})
    start_head(cluster=CLUSTER)
    assert "attached" in go(launch, commands=commands, head=head)[1][0]
    assert head.calls == []
    assert commands.log == ["dashboard", "tunnel closed", "dashboard", "tunnel closed", "down"]


def test_an_ended_driver_is_started_anew_on_its_head_whose_ray_is_not_restarted(place: Path) -> None:
    launch = a_launch(filled_in(place))
    commands, head = FakeCommands(), FakeJobs(states={launch.submission_id: "FAILED"})
    start_head(cluster=CLUSTER)
    go(launch, commands=commands, head=head)
    assert head.calls == ["forget", "submit"]
    assert "--no-restart" in commands.options["up"]
    assert heads() == []


def test_a_head_that_works_for_another_driver_is_left_alone(place: Path) -> None:
    commands, head = FakeCommands(), FakeJobs(states={"run-0": "FAILED", "run-1": "RUNNING"})
    start_head(cluster=CLUSTER)
    with pytest.raises(ClusterError, match=f"cluster {CLUSTER}: its head works for run-1; expected run-") as caught:
        go(a_launch(filled_in(place)), commands=commands, head=head)
    assert commands.log == ["dashboard", "tunnel closed"]
    assert (head.calls, len(heads())) == ([], 1)
    assert "ray down -y" in caught.value.args[-1][-2]


def test_an_older_head_that_does_not_answer_stays_and_its_ways_out_are_told(place: Path) -> None:
    commands = FakeCommands()
    start_head(cluster=CLUSTER)
    with pytest.raises(ClusterError, match=r"To look at it: .*ray attach .*ray up .*--restart-only") as caught:
        go(a_launch(filled_in(place)), commands=commands, head=None)
    assert commands.log == ["dashboard", "tunnel closed"]
    assert len(heads()) == 1
    assert "ray down -y" in caught.value.args[-1][-2]


def test_a_failing_update_of_an_older_head_leaves_it(place: Path) -> None:
    commands = FakeCommands(failing="up")
    start_head(cluster=CLUSTER)
    with pytest.raises(ClusterError, match="ray up: failed"):
        go(a_launch(filled_in(place)), commands=commands, head=FakeJobs())
    assert "down" not in commands.log


def test_a_new_head_that_does_not_answer_is_brought_down(place: Path) -> None:
    commands = FakeCommands()
    with pytest.raises(ClusterError, match="no dashboard"):
        go(a_launch(filled_in(place)), commands=commands, head=None)
    assert commands.log == ["up", "dashboard", "tunnel closed", "down"]


def test_heads_of_other_clusters_and_those_that_ended_do_not_count(place: Path) -> None:
    config = a_launch(filled_in(place)).config
    start_head(cluster="other")
    assert not has_head(config)
    start_head(cluster=CLUSTER)
    assert has_head(config)
    boto3.client("ec2").terminate_instances(InstanceIds=heads())
    assert not has_head(config)


def test_the_id_of_a_driver_is_that_of_its_work(place: Path) -> None:
    launch = a_launch(filled_in(place))
    assert launch.submission_id == a_launch(filled_in(place), keep=True).submission_id
    assert launch.submission_id != a_launch(filled_in(place), output=f"{OUTPUT}2").submission_id


def test_every_line_is_shown_once_though_the_connection_breaks(place: Path) -> None:
    _, shown = go(a_launch(filled_in(place)), commands=FakeCommands(), head=FakeJobs(breaks=3))
    assert shown[1:] == ["one", "two", "three"]


def test_a_failed_driver_is_not_a_success_and_the_machines_go_down(place: Path) -> None:
    commands, head = FakeCommands(), FakeJobs()
    head.ends_with = "FAILED"
    assert not go(a_launch(filled_in(place)), commands=commands, head=head)[0]
    assert commands.log[-1] == "down"


def test_a_failing_start_brings_down_what_has_started(place: Path) -> None:
    commands = FakeCommands(failing="up")
    with pytest.raises(ClusterError, match="ray up: failed"):
        go(a_launch(filled_in(place)), commands=commands, head=FakeJobs())
    assert commands.log == ["up", "down"]


def test_a_failing_end_says_how_to_bring_the_machines_down(place: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        go(a_launch(filled_in(place)), commands=FakeCommands(failing="down"), head=FakeJobs())
    assert "Machines may be left running" in caught.value.args[1][-1]
    assert "ray down -y" in caught.value.args[1][-1]


def test_keep_leaves_the_machines_and_says_how_to_bring_them_down(place: Path) -> None:
    commands = FakeCommands()
    _, shown = go(a_launch(filled_in(place), keep=True), commands=commands, head=FakeJobs())
    assert "down" not in commands.log
    assert "ray down -y" in shown[-2]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, UnicodeError])
def test_whatever_ends_the_watching_leaves_the_driver_running_and_says_what_to_do(
    place: Path, interrupt: type[BaseException]
) -> None:
    """Ctrl-C, a pager that is closed, a line that cannot be shown."""
    commands, head, launch = FakeCommands(), FakeJobs(), a_launch(filled_in(place))
    head.interrupt = interrupt
    with pytest.raises(interrupt) as caught:
        go(launch, commands=commands, head=head)
    assert "down" not in commands.log
    assert "ray down -y" in caught.value.args[-1][-2]
    assert head.states == {launch.submission_id: "RUNNING"}


def test_a_head_that_is_lost_keeps_its_machines(place: Path) -> None:
    commands = FakeCommands()
    with pytest.raises(jobs.DriverLostError, match="the same command attaches again"):
        go(a_launch(filled_in(place)), commands=commands, head=FakeJobs(breaks=jobs.MAX_LOST + 1))
    assert "down" not in commands.log


def test_down_ends_the_machines_of_its_run_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands, shown = FakeCommands(), list[str]()
    monkeypatch.setattr(aws_launch, "ShellCommands", lambda: commands)
    own, other = (RunName(output=output, study="") for output in (f"{OUTPUT}/", "s3://covid-bucket/theirs"))
    for run in (own, other):
        start_head(cluster=f"nnunet-{run.letters}")
    theirs = heads(f"nnunet-{other.letters}")
    load_cluster(filled_in(place)).bring_down(own, show=shown.append)
    assert (commands.log, commands.options["down"], heads()) == (["down"], ("-y",), theirs)
    assert yaml.safe_load((place / "runs" / f"down-{CLUSTER}" / "ray.yaml").read_text())["cluster_name"] == CLUSTER
    assert shown == [f"cluster {CLUSTER}: brought down"]


def test_down_tells_of_machines_of_the_file_that_are_of_no_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_launch, "ShellCommands", FakeCommands)
    shown = list[str]()
    start_head(cluster="nnunet")
    load_cluster(filled_in(place)).bring_down(RunName(output=OUTPUT, study=""), show=shown.append)
    assert len(heads("nnunet")) == 1
    told, _, file = shown[-1].partition("ray down -y ")
    assert "cluster nnunet, which is of no run: 1 machines were left" in told
    assert yaml.safe_load(Path(file).read_text())["cluster_name"] == "nnunet"


def test_runs_of_one_file_do_not_meet(place: Path) -> None:
    commands = FakeCommands()
    start_head(cluster="nnunet-of-another-run")
    go(a_launch(filled_in(place)), commands=commands, head=FakeJobs(states={"run-1": "RUNNING"}))
    assert commands.log == ["up", "dashboard", "tunnel closed", "down"]
    assert len(heads()) == 1


def test_nothing_starts_without_agreement(place: Path) -> None:
    asked: list[str] = []
    commands = FakeCommands()

    def decline(text: str) -> bool:
        asked.append(text)
        return False

    assert not go(a_launch(filled_in(place)), commands=commands, head=FakeJobs(), confirm=decline)[0]
    assert commands.log == []
    assert "420 A100 hours" in asked[0]


def test_the_shipped_file_is_refused_with_all_that_is_to_be_filled_in(place: Path) -> None:
    commands = FakeCommands()
    with pytest.raises(ConfigError) as caught:
        go(a_launch(AWS, output="s3://FILL-IN-bucket/x"), commands=commands, head=FakeJobs())
    for word in ("bucket", "image-id", "subnet-id", "security-group-id", "head-instance-profile"):
        assert f"FILL-IN-{word}" in str(caught.value)
    assert commands.log == []


def test_an_output_on_this_machine_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="every machine must reach it; expected s3://"):
        go(a_launch(filled_in(place), output="runs/x"), commands=FakeCommands(), head=FakeJobs())


def test_trainings_for_gpus_are_not_launched_on_machines_without(place: Path) -> None:
    path = filled_in(place)
    content = yaml.safe_load(path.read_text())
    kinds = content["ray"]["available_node_types"]
    content["ray"]["available_node_types"] = {"head": kinds["head"], "cpu_spot": kinds["cpu_spot"]}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    driver = dataclasses.replace(a_launch(path).driver, needs_gpus=True)
    with pytest.raises(ConfigError, match="no worker with a GPU may start; expected GPU and max_workers above 0, or"):
        load_cluster(path).launch(driver, confirm=lambda _: True, show=print)


def test_missing_credentials_are_told_before_anything_starts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(ConfigError, match="AWS does not know who we are"):
        check_aws_account(a_launch(filled_in(place)))


def test_a_bucket_that_is_not_there_is_told_before_anything_starts(place: Path) -> None:
    with pytest.raises(StorageError, match=r"s3://other-bucket/runs.*NoSuchBucket"):
        check_aws_account(a_launch(filled_in(place), output="s3://other-bucket/runs"))


def test_a_driver_that_succeeds_without_tables_is_an_error(place: Path) -> None:
    with pytest.raises(ClusterError, match="left no tables"):
        go(a_launch(filled_in(place), output="s3://covid-bucket/other"), commands=FakeCommands(), head=FakeJobs())


BOOTSTRAP = """
import sys, yaml
from ray.autoscaler._private.commands import _bootstrap_config
config = _bootstrap_config(yaml.safe_load(open(sys.argv[1])), no_config_cache=True)
kinds = config["available_node_types"]
offered = kinds["gpu_spot_a10g"]["resources"]
print("RESULT", offered["CPU"], offered["GPU"], offered["accelerator_type:A10G"])
"""


def test_ray_bootstraps_the_aws_section_against_an_emulated_aws(place: Path, moto_port: int) -> None:
    ec2 = boto3.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    text = (
        filled_in(place).read_text().replace("my-subnet-id", subnet["SubnetId"]).replace("my-security-group-id", group)
    )
    ray = place / "ray.yaml"
    ray.write_text(yaml.safe_dump(yaml.safe_load(text)["ray"]))
    done = subprocess.run(
        [sys.executable, "-c", BOOTSTRAP, str(ray)], capture_output=True, text=True, check=False, timeout=600
    )
    assert "RESULT 8 1 1" in done.stdout, done.stdout + done.stderr
