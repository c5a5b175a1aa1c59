"""Fixtures for every test: one broker and one database a run, fresh topics a test, and how hard Hypothesis tries."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings

from tests.providers import (
    KafkaProvider,
    PostgresProvider,
    Topics,
    create_topics,
    delete_topics,
    kafka_provider,
    postgres_provider,
)

# "ci" finds the same examples everywhere, so a red build can be had again; "soak" looks for new ones, for long.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("soak", max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaProvider]:
    with kafka_provider() as provider:
        yield provider


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProvider]:
    with postgres_provider() as provider:
        yield provider


@pytest.fixture
def make_topics(kafka: KafkaProvider) -> Iterator[Callable[..., Topics]]:
    """A factory `make_topics(commands=3, events=3)`, the figures being partitions; the topics go with the test."""
    with ExitStack() as cleanup:

        def make(*, commands: int = 3, events: int = 3) -> Topics:
            topics = create_topics(kafka.bootstrap_servers, commands=commands, events=events)
            cleanup.callback(delete_topics, kafka.bootstrap_servers, topics)
            return topics

        yield make


@pytest.fixture
def topics(make_topics: Callable[..., Topics]) -> Topics:
    return make_topics()
