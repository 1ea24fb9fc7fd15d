"""The audit of dependencies: what it finds fails, and what it cannot see it does not hide."""

from typing import Any

from tests.audit import Verdict, judge

KNOWN = {"name": "fine", "version": "1", "vulns": []}
FOUND = {"name": "bad", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNSEEN = {"name": "unseen", "skip_reason": "not found"}


def test_an_advisory_fails_the_audit_and_says_what_to_do() -> None:
    verdict = judge({"dependencies": [KNOWN, FOUND]})
    assert verdict.status(required=False) == 1
    assert "bad 2: PYSEC-1, fixed in 3" in "\n".join(verdict.lines())


def test_a_clean_audit_passes() -> None:
    verdict = judge({"dependencies": [KNOWN]})
    assert verdict.status(required=True) == 0
    assert "NOT AUDITED" not in "\n".join(verdict.lines())


def test_what_was_not_looked_up_is_said_loudly_and_fails_where_it_must_not_be() -> None:
    reports: list[dict[str, Any]] = [{"dependencies": [KNOWN, UNSEEN]}, {"dependencies": []}, {}]
    for report in reports:
        verdict = judge(report)
        assert verdict.status(required=False) == 0
        assert verdict.status(required=True) == 1
        assert "NOT AUDITED" in "\n".join(verdict.lines())


def test_nothing_seen_is_no_success() -> None:
    assert Verdict().status(required=True) == 1
