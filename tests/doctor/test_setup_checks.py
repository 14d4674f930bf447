"""What is installed and configured becomes findings, each with how to mend it."""

from __future__ import annotations

from penstock.doctor.facts import Installed, ModelFacts, SetupFacts
from penstock.doctor.finding import Finding, Level
from penstock.doctor.setup_checks import setup_findings


def found(**facts: object) -> dict[str, Finding]:
    return {each.subject: each for each in setup_findings(SetupFacts("penstock.toml", **facts))}  # type: ignore[arg-type]


def test_a_plain_setup_has_nothing_to_mend() -> None:
    findings = found(
        models=(ModelFacts("demo", "llamacpp", files="the bundled model is whole"),),
        engines=(Installed("xllamacpp", "1.2", "/venv"),),
        ports={"gateway.listen": ""},
    )

    assert {each.level for each in findings.values()} == {Level.OK, Level.SKIP}
    assert findings["config"].seen == "penstock.toml: valid, 1 model"
    assert findings["model demo"].seen == "llamacpp, the bundled model is whole"
    assert findings["engine xllamacpp"].seen == "1.2 in /venv"
    assert findings["engine vllm"].seen == "not installed; no model needs it"


def test_a_configuration_with_mistakes_fails_and_one_with_idle_settings_warns() -> None:
    broken = found(config_problems=("gateway.listen: expected host:port",))
    idle = found(config_warnings=("SWAP_SPACE has no effect",))

    assert (broken["config"].level, broken["config"].seen) == ("fail", "gateway.listen: expected host:port")
    assert any(each.level is Level.WARN for each in setup_findings(SetupFacts("x", config_warnings=("y",))))
    assert idle["config"].level is Level.OK  # the last row: it is valid


def test_a_model_that_can_not_be_served_fails() -> None:
    findings = found(models=(ModelFacts("m", "vllm", complaints=("source: is incomplete", "and more")),))

    assert (findings["model m"].level, findings["model m"].seen) == (
        "fail",
        "source: is incomplete; and more",
    )
    assert "engine vllm" not in findings  # the model has said it


def test_several_installations_are_all_told() -> None:
    both = (Installed("vllm", "0.32.0", "/a"), Installed("vllm", "0.31.0", "/b"))

    assert found(engines=both)["engine vllm"].seen == "0.32.0 in /a; 0.31.0 in /b"


def test_a_missing_token_matters_only_for_models_of_the_hub() -> None:
    assert found()["hub token"].level is Level.SKIP
    assert found(hub_models=("llama",))["hub token"].level is Level.WARN
    assert found(token_from="HF_TOKEN in .env")["hub token"].seen == "there is one (HF_TOKEN in .env)"


def test_a_port_that_is_taken_fails_unless_it_is_taken_by_penstock() -> None:
    taken = {"gateway.listen": "127.0.0.1:8080 is in use by pid 71 (nginx)"}

    assert found(ports=taken)["gateway.listen"].level is Level.FAIL
    assert found(ports=taken, running=71)["gateway.listen"].seen == "in use by Penstock itself (pid 71)"
    assert found(ports=taken, running=7)["gateway.listen"].level is Level.OK  # a child of it


def test_what_was_left_behind_is_told_with_how_to_end_it() -> None:
    findings = list(setup_findings(SetupFacts("x", leftovers={71: "m-0"}, stale_files=("a", "b", "c", "d"))))

    process, files = findings[-2:]
    assert (process.level, process.seen, process.mend) == (
        "warn",
        "m-0 (pid 71) runs, and nobody keeps it",
        "kill 71",
    )
    assert "a, b, c and 1 more" in files.seen
