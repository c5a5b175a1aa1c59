"""Configuration: environment variables with the prefix USERTASK_, each secret also from a file (contract, Settings)."""

import os
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.problem import DEFAULT_PROBLEM_TYPE_BASE
from worker.addresses import check_store, read_brokers, read_listening_host, sqlite_path

PREFIX: Final = "USERTASK_"
SECRETS: Final = ("kafka_sasl_password", "store_url")

_EXTENSIONS: Final = re.compile(r"(?:(?:^|, ?)(?!auth=)[A-Za-z]+=[ -+\--~]+)+")
"""RFC 7628; a comma parts them here, so no value has one."""

Positive = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Topic = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]


class SettingsError(Exception):
    """The configuration cannot be used. The text names the variable and never repeats a secret."""


class Settings(BaseSettings):
    """Everything that can be set. The variable is the field's name in upper case behind USERTASK_."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    kafka_security_protocol: Protocol = "PLAINTEXT"
    """How to talk to the brokers."""
    kafka_bootstrap_servers: Annotated[str, Field(min_length=1)] = "localhost:9092"
    """Brokers to start from: `host:port`, separated by commas."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = None
    """How to log in, where the security protocol is a SASL one."""
    kafka_sasl_username: str | None = None
    """The SASL user."""
    kafka_sasl_password: SecretStr | None = None
    """The SASL password."""
    kafka_sasl_token_file: Path | None = None
    """The file with the token of OAUTHBEARER. It is read at each login, so that the token can be renewed."""
    kafka_sasl_extensions: str | None = None
    """What OAUTHBEARER tells the broker besides the token: `name=value`, separated by commas."""
    kafka_ssl_cafile: Path | None = None
    """CA certificates (PEM) to trust; the system's if not given."""
    kafka_ssl_certfile: Path | None = None
    """The client's certificate (PEM), for mutual TLS."""
    kafka_ssl_keyfile: Path | None = None
    """The key of the client's certificate (PEM, not encrypted); none if it is in the same file."""
    kafka_client_rack: str | None = None
    """The rack or zone of this worker: it then fetches from a replica there, if the brokers choose replicas by rack."""
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
    damaged_batches: Literal["block", "skip"] = "block"
    """What to do at a batch of commands that cannot be read: `block` its partition, or `skip` it with a dead letter."""
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
    """The address of /livez, /readyz and /metrics; `::` is all, of IPv4 too."""
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
    def _addresses(cls, servers: str, read: ValidationInfo) -> str:
        return read_brokers(servers, read.data.get("kafka_security_protocol"), get_args(Protocol))

    @field_validator("kafka_sasl_extensions")
    @classmethod
    def _known_by_name(cls, extensions: str | None) -> str | None:
        if extensions is not None and not _EXTENSIONS.fullmatch(extensions):
            raise ValueError("not name=value, separated by commas; names are letters, and `auth` is the token's own")
        return extensions

    @field_validator("http_host")
    @classmethod
    def _to_listen_on(cls, host: str) -> str:
        return read_listening_host(host)

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
        text = url.get_secret_value().strip()
        check_store(text)
        return SecretStr(text)

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
        return sqlite_path(self.store_url.get_secret_value())

    @property
    def sasl_extensions(self) -> dict[str, str]:
        """Give the extensions of OAUTHBEARER by name."""
        given = (self.kafka_sasl_extensions or "").split(",")
        return {name: value for name, _, value in (one.strip().partition("=") for one in given if one)}


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
        secrets[name] = _read_secret(f"{variable}_FILE", path)
    return secrets


def _read_secret(variable: str, path: str) -> str:
    """Read a file without its last line break: editors and `echo` end a file with one, and all else may be meant."""
    shown = "what it names" if "://" in path else path  # somebody may have put the secret itself there
    try:
        secret = re.sub(r"\r?\n\Z", "", Path(path).read_bytes().decode())
    except OSError as error:
        raise SettingsError(f"{variable}: {shown} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{variable}: {shown} is not UTF-8") from None
    if not secret:
        raise SettingsError(f"{variable}: {shown} is empty")
    return secret


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Give the variables with the worker's prefix that set nothing, each with the known name that is most like it."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    known |= {f"{PREFIX}{name.upper()}_FILE" for name in SECRETS}
    given = sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)
    return {name: next(iter(get_close_matches(name.upper(), known, 1)), None) for name in given}


def _in_words(error: Any) -> str:
    location = "_".join(str(part) for part in error["loc"][:1])
    message = error["msg"].removeprefix("Value error, ")
    return f"{PREFIX}{location.upper()}: {message}" if location else message
