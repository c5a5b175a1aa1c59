"""Configuration: environment variables with the prefix USERTASK_, each secret also from a file (contract, Settings)."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.problem import DEFAULT_PROBLEM_TYPE_BASE

PREFIX: Final = "USERTASK_"
SECRETS: Final = ("kafka_sasl_password", "store_url")

_PORT_MAX: Final = 65_535

Positive = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Topic = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class SettingsError(Exception):
    """The configuration cannot be used. The text names the variable and never repeats a secret."""


class Settings(BaseSettings):
    """Everything that can be set. The variable is the field's name in upper case behind USERTASK_."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    kafka_bootstrap_servers: Annotated[str, Field(min_length=1)] = "localhost:9092"
    """Brokers to start from: `host:port`, separated by commas."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to talk to the brokers."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """How to log in, where the security protocol is a SASL one."""
    kafka_sasl_username: str | None = None
    """The SASL user."""
    kafka_sasl_password: SecretStr | None = None
    """The SASL password."""
    kafka_sasl_token_file: Path | None = None
    """The file with the token of OAUTHBEARER. It is read at each login, so that the token can be renewed."""
    kafka_ssl_cafile: Path | None = None
    """CA certificates (PEM) to trust; the system's if not given."""
    kafka_ssl_certfile: Path | None = None
    """The client's certificate (PEM), for mutual TLS."""
    kafka_ssl_keyfile: Path | None = None
    """The key of the client's certificate (PEM, not encrypted); none if it is in the same file."""
    group_id: Annotated[str, Field(min_length=1, max_length=200)] = "user-task-worker"
    """The consumer group; transactional ids start with it."""
    commands_topic: Topic = "user-task.commands"
    """Where commands come from."""
    events_topic: Topic = "user-task.events"
    """Where events go."""
    rejections_topic: Topic = "user-task.rejections"
    """Where rejections go."""
    dead_letters_topic: Topic = "user-task.commands.dlq"
    """Where unreadable commands go, besides their rejection."""
    store_url: SecretStr = SecretStr("sqlite:///user-tasks.db")
    """`sqlite:///FILE` for one worker, `postgresql://user:password@host/database` for many."""
    max_batch_records: Annotated[int, Field(ge=1, le=10_000)] = 3000
    """Commands decided together: bounds a store transaction and a Kafka transaction."""
    max_record_bytes: Annotated[int, Field(ge=1000, le=100_000_000)] = 1_000_000
    """Key, value and headers of the largest event; a command that would lead to a larger one is refused."""
    session_timeout_s: Positive = 10
    """After this silence the group gives a worker's partitions to others."""
    drain_timeout_s: Positive = 30
    """How long a stop may take to finish what has begun."""
    start_timeout_s: Positive = 30
    """How long to wait for broker and store at start; later outages are waited out without limit."""
    stall_limit_s: Positive = 60
    """After so long a standstill that no outage explains, /livez turns red."""
    reply_topics: str = r"^user-task\.replies(\..+)?$"
    """Pattern of the topics to which replies may be sent."""
    problem_type_base: Annotated[str, Field(max_length=255)] = DEFAULT_PROBLEM_TYPE_BASE
    """What stands before the slug in a problem's `type`; `about:blank` gives Camunda's form."""
    event_source: Annotated[str, Field(min_length=1, max_length=255)] = "/user-task-worker"
    """The `ce_source` of outgoing records."""
    retention_days: Annotated[float, Field(gt=0, le=3650, allow_inf_nan=False)] = 7
    """How long a command id is remembered."""
    http_host: str = "127.0.0.1"
    """The address of /livez, /readyz and /metrics."""
    http_port: Annotated[int, Field(ge=-1, le=65_535)] = 8080
    """Their port; 0 picks a free one, -1 switches them off."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is logged."""
    log_format: Literal["json", "console"] = Field(default_factory=lambda: "console" if sys.stderr.isatty() else "json")
    """`json` or `console`; json unless on a terminal."""
    accept_at_least_once: bool = False
    """Run on brokers below 4.0 too, where a takeover may publish outcomes twice (docs/exactly-once.md)."""

    @field_validator("kafka_bootstrap_servers")
    @classmethod
    def _addresses(cls, servers: str) -> str:
        for server in servers.split(","):
            host, _, port = server.strip().rpartition(":") if ":" in server else (server.strip(), "", "9092")
            if not host or not port.isdecimal() or not 0 < int(port) <= _PORT_MAX:
                raise ValueError("not host:port, separated by commas")
            try:
                host.encode("idna")
            except UnicodeError:
                raise ValueError("a host name with a part that is empty or too long") from None
        return servers

    @field_validator("reply_topics")
    @classmethod
    def _a_pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern

    @field_validator("store_url")
    @classmethod
    def _a_known_store(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            parts.port  # noqa: B018 - raises for one that is no number; its own text would repeat the URL
        except ValueError:
            raise ValueError("its host or port cannot be read") from None
        if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
            return url
        if parts.scheme in {"postgresql", "postgres"} and parts.path.strip("/"):
            return url
        raise ValueError("neither sqlite:///FILE nor postgresql://user:password@host/database")

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_case(cls, level: object) -> object:
        return level.lower() if isinstance(level, str) else level

    @model_validator(mode="after")
    def _topics_differ(self) -> "Settings":
        topics = (self.commands_topic, self.events_topic, self.rejections_topic, self.dead_letters_topic)
        if len(set(topics)) != len(topics):
            raise ValueError("USERTASK_…_TOPIC: two of the four topics are the same")
        return self

    @model_validator(mode="after")
    def _sasl_is_complete(self) -> "Settings":
        if not self.kafka_security_protocol.startswith("SASL"):
            return self
        if self.kafka_sasl_mechanism == "OAUTHBEARER":
            if self.kafka_sasl_token_file is None:
                raise ValueError("USERTASK_KAFKA_SASL_MECHANISM: OAUTHBEARER needs USERTASK_KAFKA_SASL_TOKEN_FILE")
        elif None in (self.kafka_sasl_mechanism, self.kafka_sasl_username, self.kafka_sasl_password):
            raise ValueError(
                "USERTASK_KAFKA_SECURITY_PROTOCOL: SASL needs USERTASK_KAFKA_SASL_MECHANISM, …_USERNAME and …_PASSWORD"
            )
        return self

    @model_validator(mode="after")
    def _certificate_is_complete(self) -> "Settings":
        if self.kafka_ssl_keyfile is not None and self.kafka_ssl_certfile is None:
            raise ValueError("USERTASK_KAFKA_SSL_KEYFILE: a key is of no use without USERTASK_KAFKA_SSL_CERTFILE")
        return self

    @property
    def sqlite_path(self) -> Path | None:
        """Give the SQLite file, or None if the store is another."""
        parts = urlsplit(self.store_url.get_secret_value())
        return Path(parts.path[1:]) if parts.scheme == "sqlite" else None


def load_settings(environment: dict[str, str] | None = None) -> Settings:
    """Read the settings from the environment. Raise SettingsError naming the variables that are wrong."""
    given = dict(os.environ) if environment is None else environment
    try:
        return Settings(**_secrets_from_files(given))
    except ValidationError as invalid:
        raise SettingsError("; ".join(_in_words(error) for error in invalid.errors(include_input=False))) from None


def _secrets_from_files(environment: dict[str, str]) -> dict[str, Any]:
    secrets: dict[str, Any] = {}
    for name in SECRETS:
        variable = f"{PREFIX}{name.upper()}"
        path = environment.get(f"{variable}_FILE")
        if not path:
            continue
        if environment.get(variable):
            raise SettingsError(f"{variable} and {variable}_FILE are both set")
        try:
            secrets[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{variable}_FILE cannot be read: {type(error).__name__}") from None
    return secrets


def _in_words(error: Any) -> str:
    location = "_".join(str(part) for part in error["loc"][:1])
    message = error["msg"].removeprefix("Value error, ")
    return f"{PREFIX}{location.upper()}: {message}" if location else message
