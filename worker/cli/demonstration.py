"""Runs the demo: a real broker, a real worker, the story, and nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import typer

from worker.cli.audience import Audience, DemoFailedError, Heard
from worker.cli.board import Board, showing
from worker.cli.clients import producing, reach, reading
from worker.cli.endings import log_for_people
from worker.cli.provisioning import Plan, make_topics
from worker.cli.sending import publish
from worker.cli.story import Step, tell
from worker.embedded import EmbeddedKafka, EmbeddedKafkaError, end_with_parent, find_java
from worker.exit_codes import ExitCode
from worker.kafka import TopicShape
from worker.settings import PREFIX, Settings, load_settings

_PARTITIONS: Final = 3
_STOP_TIMEOUT_S: Final = 40
_LOG_LINES: Final = 15


def demonstrate(*, keep: bool) -> ExitCode:
    """Show the whole thing. Everything is in a temporary folder, and gone afterwards."""
    if find_spec("jgo") is None:
        typer.echo('The demo runs a real Kafka, which needs: pip install "user-task-worker[embedded]"', err=True)
        return ExitCode.CONFIGURATION
    try:
        java = find_java()
    except EmbeddedKafkaError as error:
        typer.echo(str(error), err=True)
        return ExitCode.CONFIGURATION
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    log_for_people(debugging=False)
    try:
        with TemporaryDirectory(prefix="user-task-demo-") as folder, EmbeddedKafka(java=java, progress=_say) as kafka:
            return _with_broker(kafka.bootstrap_servers, Path(folder), keep=keep)
    except EmbeddedKafkaError as error:
        typer.echo(str(error), err=True)
        return ExitCode.FAILED


def _say(text: str) -> None:
    typer.echo(f"… {text}", err=True)


def _with_broker(bootstrap_servers: str, folder: Path, *, keep: bool) -> ExitCode:
    settings, log = _settings(bootstrap_servers, folder), folder / "worker.log"
    try:
        shapes = asyncio.run(_topics(settings))
        with _worker(log) as process:
            typer.echo(asyncio.run(_perform(settings, shapes, lambda: _check_running(process))))
            if keep:
                _keep(settings, process)
    except DemoFailedError as failure:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
        typer.echo("\n".join([str(failure), "The last lines of the worker's log:", *lines]), err=True)
        return ExitCode.FAILED
    return ExitCode.DONE


def _settings(bootstrap_servers: str, folder: Path) -> Settings:
    """Set this process and its children up for the demo alone: what is set for another cluster is not for this one."""
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        del os.environ[name]
    os.environ[f"{PREFIX}KAFKA_BOOTSTRAP_SERVERS"] = bootstrap_servers
    os.environ[f"{PREFIX}STORE_URL"] = f"sqlite:///{folder / 'user-tasks.db'}"
    os.environ[f"{PREFIX}HTTP_PORT"] = "-1"
    os.environ[f"{PREFIX}LOG_FORMAT"] = "json"
    return load_settings()


async def _topics(settings: Settings) -> dict[str, TopicShape]:
    _say("creating the topics")
    return dict(await make_topics(settings, Plan(_PARTITIONS), await reach(settings)))


@contextmanager
def _worker(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker in a session of its own, so that Ctrl-C reaches the demo, which then stops it in order."""
    _say("starting a worker")
    command = [sys.executable, "-m", "worker", "run"]
    with log.open("ab") as file:
        process = subprocess.Popen(  # noqa: S603 - this very Python
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    watcher = end_with_parent(process)
    try:
        yield process
    finally:
        _say("stopping the worker and Kafka")
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        for one in (watcher, process):
            one.kill()
            one.communicate()  # waits, and closes the watcher's pipe


def _check_running(process: subprocess.Popen[bytes]) -> None:
    code = process.poll()
    if code is not None:
        raise DemoFailedError(f"the worker ended with exit code {code}")


async def _perform(settings: Settings, shapes: dict[str, TopicShape], watch: Callable[[], None]) -> str:
    """Send the story, show what comes of it, and give it in one line."""
    story = tell()
    listened = {name: shape for name, shape in shapes.items() if name != settings.commands_topic}
    max_bytes = shapes[settings.commands_topic].max_message_bytes
    async with reading(settings, listened) as reader, producing(settings, max_bytes) as producer:
        audience = Audience(reader, settings, watch)
        with showing() as board:
            unproven: list[tuple[int, Step]] = []  # silence is only certain once the next command was answered
            for number, step in enumerate(story, 1):
                sent = await publish(producer, settings.commands_topic, step.command)
                answers = await audience.answers(step, sent)
                unproven.append((number, step))
                if answers:
                    _show(board, unproven, answers)
                    unproven.clear()
    return _summary(story, audience)


def _show(board: Board, steps: list[tuple[int, Step]], answers: list[Heard]) -> None:
    """Show silent steps, and the one behind them that was answered."""
    for number, step in steps:
        told = (str(number), step.what, step.command.key.decode())
        if not step.expected:
            board.add((*told, "none", "", "its id was seen before: applied once, told once"))
            continue
        for index, heard in enumerate(answers):
            board.add((*(("", "", "") if index else told), heard.kind, heard.outcome, heard.details))


def _summary(story: list[Step], audience: Audience) -> str:
    heard, silent = audience.count(), sum(not step.expected for step in story)
    promised = sum(len(step.expected) for step in story)
    if heard.total() != promised:
        raise DemoFailedError(f"{heard.total()} records came instead of {promised}: {heard}")
    answered = f"{heard['event']} events and {heard['rejection']} rejections out"
    dead = f"{heard['dead letter']} dead letter kept for an operator"
    return f"{len(story)} commands in, {answered}, {silent} repetition without effect, {dead}."


def _keep(settings: Settings, process: subprocess.Popen[bytes]) -> None:
    """Leave everything running until Ctrl-C. Raise DemoFailedError if the worker ends before."""
    typer.echo(_instructions(settings))
    try:
        process.wait()
    except KeyboardInterrupt:
        return
    _check_running(process)


def _instructions(settings: Settings) -> str:
    servers = settings.kafka_bootstrap_servers
    send = f"kcat -P -b {servers} -t {settings.commands_topic} -k 7 -X partitioner=murmur2_random"
    create = "-H ce_specversion=1.0 -H ce_id=create-7 -H ce_source=/kcat -H ce_type=user-task.create.v1"
    listen = f"kcat -C -b {servers} -X isolation.level=read_committed -o end -f '%k %s\\n'"
    complete = """echo '{"variables": {"approved": true}, "action": "approve"}'"""
    return f"""
Kafka listens on {servers} and the worker runs; Ctrl-C stops both. From another terminal:

listen       {listen} -t {settings.events_topic}
             {listen} -t {settings.rejections_topic}
create       echo '{{}}' | {send} {create}
complete     {complete} | {send}
or           USERTASK_KAFKA_BOOTSTRAP_SERVERS={servers} user-task-worker create 8 --wait
             USERTASK_KAFKA_BOOTSTRAP_SERVERS={servers} user-task-worker complete 8 --action approve --wait
"""
