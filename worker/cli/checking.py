"""All that has to be true before a worker runs, looked at one by one: a broken thing does not hide the next."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Final

import typer
from aiokafka.errors import KafkaError

from worker.brokers import Answer, deadline_of, first_answer, silent_brokers
from worker.cli.clients import administering
from worker.cli.configuration import changed_settings, effective_settings
from worker.cli.endings import perform
from worker.cli.rights import SEEING, WRITING, try_outcomes, try_rights
from worker.cli.store_checks import check_store
from worker.cli.tables import for_people, print_table
from worker.cli.topic_checks import ClusterFacts, Finding, bad, check_limits, check_topics, good, read_facts
from worker.exit_codes import ExitCode
from worker.kafka import BrokerUnreachableError, topic_names
from worker.settings import PREFIX, Settings, unknown_variables

_COLUMNS: Final = ("check", "result", "detail")
_WITHOUT_BROKER: Final = ("broker version", "timeouts", "topics", "rights")


def run_checks(*, as_json: bool) -> ExitCode:
    """Print a line for each check. Raise SettingsError if not even the settings can be read."""
    return perform(lambda settings: _run_checks(settings, as_json=as_json))


async def _run_checks(settings: Settings, *, as_json: bool) -> ExitCode:
    findings = [_settings(settings), _variables(os.environ)]
    facts, of_broker = await _broker(settings)
    findings += of_broker
    if facts is not None:
        of_topics = check_topics(settings, facts)
        limits = check_limits(settings, facts)
        findings += [*limits, *of_topics]
        # a topic that does not work would only look like one without rights
        usable = {name for name, one in zip(topic_names(settings), of_topics, strict=True) if one.result == "ok"}
        findings += await try_rights(settings, usable, may_transact=all(one.result == "ok" for one in limits))
    results = {one.name: one.result for one in findings}
    store = await check_store(settings, facts, sees_group=results.get(SEEING) == "ok")
    may_write = all(result == "ok" for name, result in results.items() if name.startswith(WRITING))
    findings += [*store.findings, await try_outcomes(settings, store.waiting, may_write=may_write)]
    _print(settings, findings, as_json=as_json)
    return exit_code_of_findings(findings)


def exit_code_of_findings(findings: list[Finding]) -> ExitCode:
    """Give the code of the contract: what does not answer goes before what does not fit."""
    red = [finding for finding in findings if finding.result == "red"]
    if any(finding.is_unreachable for finding in red):
        return ExitCode.UNREACHABLE
    return ExitCode.NOT_READY if red else ExitCode.DONE


def _settings(settings: Settings) -> Finding:
    changed = ", ".join(f"{name}={value}" for name, value in changed_settings(settings).items())
    return good("settings", changed or "all at their defaults")


def _variables(environment: Mapping[str, str]) -> Finding:
    """Name what is set and sets nothing: a worker runs without it, and warns."""
    unknown = unknown_variables(environment)
    if not unknown:
        return good("variables", f"each {PREFIX}… variable is a setting")
    named = [name if nearest is None else f"{name} (perhaps {nearest})" for name, nearest in unknown.items()]
    return Finding("variables", "warning", f"no settings, and without effect: {', '.join(named)}")


async def _broker(settings: Settings) -> tuple[ClusterFacts | None, list[Finding]]:
    skipped = [Finding(name, "skipped", "the broker does not answer") for name in _WITHOUT_BROKER]
    try:
        deadline_s = deadline_of(settings)
        answer = await first_answer(settings, deadline_s)  # first: it can say why no broker answers
        silent = await silent_brokers(settings, answer, deadline_s)
        async with administering(settings) as admin:
            facts = await read_facts(admin, settings)
    except BrokerUnreachableError as error:
        return None, [bad("broker", str(error), is_unreachable=True), *skipped]
    except (KafkaError, OSError) as error:
        words = f"{settings.kafka_bootstrap_servers}: {type(error).__name__}: {error}"
        return None, [bad("broker", words, is_unreachable=True), *skipped]
    answers = good("broker", f"{answer.address} answers")
    if silent:
        answers = replace(answers, result="warning", detail="; ".join([answers.detail, *silent]))
    return facts, [answers, _version(settings, answer)]


def _version(settings: Settings, answer: Answer) -> Finding:
    if answer.lacks is None:
        return good("broker version", "4.0 or newer")
    if settings.accept_at_least_once and not answer.is_too_old:
        return good("broker version", f"{answer.lacks}; accepted by USERTASK_ACCEPT_AT_LEAST_ONCE")
    return bad("broker version", f"{answer.lacks}; upgrade it, or set USERTASK_ACCEPT_AT_LEAST_ONCE=true")


def _print(settings: Settings, findings: list[Finding], *, as_json: bool) -> None:
    if for_people(as_json=as_json):
        print_table(_COLUMNS, [(one.name, one.result, one.detail) for one in findings], styled_by=1)
        return
    checks = [{name: asdict(one)[name] for name in ("name", "result", "detail")} for one in findings]
    ok = exit_code_of_findings(findings) is ExitCode.DONE
    typer.echo(json.dumps({"ok": ok, "settings": effective_settings(settings), "checks": checks}))
