"""Kafka Streams with exactly_once_v2 doing the worker's job: one Java file, compiled when first needed."""

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from worker.embedded import KAFKA_VERSION, find_java

_MAVEN_ENDPOINT: Final = f"org.apache.kafka:kafka-streams:{KAFKA_VERSION}+org.slf4j:slf4j-nop:1.7.36"
_SOURCE: Final = Path(__file__).with_name("CompleteUserTasks.java")
_JVM_OPTIONS: Final = ("-Xms512m", "-Xmx1g", "-XX:+UseParallelGC")
_COMPILE_TIMEOUT_S: Final = 120


def command(
    servers: str, group: str, commands: str, events: str, rejections: str, state_folder: str, store: str
) -> list[str]:
    """Give the command line of the application; `store` is `rocksdb` or `memory`."""
    jars = [str(artifact.resolve()) for artifact in importlib.import_module("jgo").resolve(_MAVEN_ENDPOINT)]
    classes = Path(state_folder).parent / "classes"
    _compile(jars, classes)
    class_path = ":".join([str(classes), *jars])
    arguments = [servers, group, commands, events, rejections, state_folder, store]
    return [str(find_java()), *_JVM_OPTIONS, "-cp", class_path, "CompleteUserTasks", *arguments]


def _compile(jars: list[str], classes: Path) -> None:
    compiler = shutil.which("javac")
    if compiler is None:
        raise RuntimeError("Kafka Streams needs javac, a JDK's, on the PATH")
    classes.mkdir()
    subprocess.run(  # noqa: S603 - the JDK's own compiler
        [compiler, "-cp", ":".join(jars), "-d", str(classes), str(_SOURCE)], check=True, timeout=_COMPILE_TIMEOUT_S
    )
