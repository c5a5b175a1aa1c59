"""A broker that trusts nobody: TLS with a CA of its own, SCRAM, mutual TLS and OAUTHBEARER, and no right but by an ACL.

Its PLAINTEXT listener is for itself and for the tests' admin, who alone may do anything. Everybody else has a listener
with TLS, and is denied by default.
"""

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.integration.harness import ROOT
from worker.embedded import EmbeddedKafka, free_port

HOST = "127.0.0.1"
USER = "worker"
PASSWORD = "correct-horse-battery-staple"
SESSION_S = 3
"""How long a login with OAUTHBEARER lasts, at most."""
OAUTH = "org.apache.kafka.common.security.oauthbearer"
SCRAM = {"SCRAM-SHA-256": ScramMechanism.SCRAM_SHA_256, "SCRAM-SHA-512": ScramMechanism.SCRAM_SHA_512}
X509 = """
[req]
distinguished_name = name
prompt = no
[name]
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = IP:127.0.0.1
"""


class Pair(NamedTuple):
    """A certificate and its key, both PEM."""

    certificate: Path
    key: Path


def certified(folder: Path, name: str, ca: Pair | None = None) -> Pair:
    """Make a certificate with the subject CN=`name`, valid for 127.0.0.1, or a CA if none is to sign it."""
    made, config = Pair(folder / f"{name}.crt", folder / f"{name}.key"), folder / "x509.cnf"
    config.write_text(X509)
    command = ["openssl", "req", "-x509", "-config", config, "-subj", f"/CN={name}", "-days", "2", "-nodes"]
    command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", made.certificate, "-keyout", made.key]
    command += ["-extensions", "leaf", "-CA", ca.certificate, "-CAkey", ca.key] if ca else ["-extensions", "ca"]
    subprocess.run(command, check=True, capture_output=True)
    return made


class Acl(NamedTuple):
    """One right of the worker, as docs/operating.md lists it: the name is that of the setting which holds it."""

    kind: str
    setting: str
    pattern: str
    operation: str


def documented_acls() -> list[Acl]:
    """Read the rights that docs/operating.md says are needed and enough, one for each operation."""
    rows = re.findall(
        r"^\| (Topic|Group|TransactionalId) \| `USERTASK_(\w+)` \| (literal|prefixed) \| ([\w, ]+?) \|",
        (ROOT / "docs" / "operating.md").read_text(),
        re.MULTILINE,
    )
    return [Acl(*row, operation) for *row, operations in rows for operation in operations.split(", ")]


KINDS = {
    "Topic": ResourceType.TOPIC,
    "Group": ResourceType.GROUP,
    "TransactionalId": ResourceType.TRANSACTIONAL_ID,
}
PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefixed": ResourcePatternType.PREFIXED}


def token(user: str = USER, *, valid_s: float = 3600) -> str:
    """Make a token that is not signed: the broker's handler for tests takes it."""
    now = time.time()
    claims = {"sub": user, "iat": now, "exp": now + valid_s}
    parts = ({"alg": "none"}, claims)
    return ".".join([*(_base64(json.dumps(part).encode()) for part in parts), ""])


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


@dataclass(frozen=True)
class Secured:
    """The broker's addresses, and what its clients need."""

    admin: str
    scram: str
    mutual: str
    oauth: str
    ca: Pair
    client: Pair

    def allow(self, env: dict[str, str], acls: Iterable[Acl], user: str = USER) -> None:
        """Give the rights on what the settings name to a user."""
        admin = AdminClient({"bootstrap.servers": self.admin})
        if bindings := [_binding(acl, env, user) for acl in acls]:
            for made in admin.create_acls(bindings).values():
                made.result(30)

    def login(self, mechanism: str, password: Path) -> dict[str, str]:
        """Return the settings of a login by SCRAM."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.scram,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": mechanism,
            "KAFKA_SASL_USERNAME": USER,
            "KAFKA_SASL_PASSWORD_FILE": str(password),
            "KAFKA_SSL_CAFILE": str(self.ca.certificate),
        }

    def bearing(self, token_file: Path) -> dict[str, str]:
        """Return the settings of a login by OAUTHBEARER."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.oauth,
            "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA_SASL_MECHANISM": "OAUTHBEARER",
            "KAFKA_SASL_TOKEN_FILE": str(token_file),
            "KAFKA_SSL_CAFILE": str(self.ca.certificate),
        }

    def certificate(self, client: Pair) -> dict[str, str]:
        """Return the settings of a login by certificate."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.mutual,
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CAFILE": str(self.ca.certificate),
            "KAFKA_SSL_CERTFILE": str(client.certificate),
            "KAFKA_SSL_KEYFILE": str(client.key),
        }


def _binding(acl: Acl, env: dict[str, str], user: str) -> AclBinding:
    operation = AclOperation[re.sub(r"(?<!^)(?=[A-Z])", "_", acl.operation).upper()]
    name, pattern = env[f"USERTASK_{acl.setting}"], PATTERNS[acl.pattern]
    return AclBinding(KINDS[acl.kind], name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)


@contextmanager
def secured_kafka(folder: Path) -> Iterator[Secured]:
    """Start the broker, with the SCRAM user `worker` and no ACL."""
    ca = certified(folder, "ca")
    store = folder / "broker.pem"
    server = certified(folder, "broker", ca)
    store.write_text(server.key.read_text() + server.certificate.read_text())
    ports = {name: free_port() for name in ("PLAINTEXT", "CONTROLLER", "SCRAM", "MUTUAL", "OAUTH")}
    with EmbeddedKafka(port=ports["PLAINTEXT"], overrides=overrides(ports, store, ca)) as broker:
        add_user(broker.bootstrap_servers)
        scram, mutual, oauth = (f"{HOST}:{ports[name]}" for name in ("SCRAM", "MUTUAL", "OAUTH"))
        yield Secured(broker.bootstrap_servers, scram, mutual, oauth, ca, certified(folder, USER, ca))


def overrides(ports: dict[str, int], store: Path, ca: Pair) -> dict[str, str]:
    """Return the broker's settings."""
    oauth = "listener.name.oauth"
    return {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in ports.items()),
        "controller.quorum.voters": f"1@{HOST}:{ports['CONTROLLER']}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL,"
        "OAUTH:SASL_SSL",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "false",
        "super.users": "User:ANONYMOUS",  # who has the PLAINTEXT listener: the broker itself, and the tests' admin
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ca.certificate),
        "listener.name.scram.sasl.enabled.mechanisms": ",".join(SCRAM),
        **{
            f"listener.name.scram.{name.lower()}.sasl.jaas.config": "org.apache.kafka.common.security.scram."
            "ScramLoginModule required;"
            for name in SCRAM
        },
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^CN=(.*)$/$1/",
        f"{oauth}.sasl.enabled.mechanisms": "OAUTHBEARER",
        f"{oauth}.oauthbearer.connections.max.reauth.ms": str(SESSION_S * 1000),
        f"{oauth}.oauthbearer.sasl.jaas.config": f"{OAUTH}.OAuthBearerLoginModule required"
        ' unsecuredLoginStringClaim_sub="broker";',
        f"{oauth}.oauthbearer.sasl.server.callback.handler.class": f"{OAUTH}.internals.unsecured."
        "OAuthBearerUnsecuredValidatorCallbackHandler",
    }


def add_user(bootstrap_servers: str) -> None:
    """Give the user `worker` a password for each SCRAM mechanism."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    wanted = [
        UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
        for mechanism in SCRAM.values()
    ]
    for one in wanted:  # a request may name a user once
        for added in admin.alter_user_scram_credentials([one]).values():
            added.result(30)
