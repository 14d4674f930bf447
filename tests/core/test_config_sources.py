from collections.abc import Mapping

import pytest
from pydantic import SecretStr

from penstock.core.config import Config
from penstock.core.config_sources import ConfigError, Loaded, load_config, settings, variable_of
from penstock.core.errors import PenstockError

REMOTE = '[[models]]\nname = "m"\nengine = "remote"\nsource = "http://h:1"\n'


def load(
    toml: str | None = None, environ: Mapping[str, str] | None = None, dotenv: str | None = None
) -> Loaded:
    return load_config(
        toml_text=toml,
        toml_name="penstock.toml",
        environ=environ or {},
        dotenv_text=dotenv,
        dotenv_name=".env",
    )


def mistakes(
    toml: str | None = None, environ: Mapping[str, str] | None = None, dotenv: str | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(toml, environ, dotenv)
    return [str(problem) for problem in caught.value.problems]


def test_no_source_at_all_gives_the_default_configuration() -> None:
    loaded = load()

    assert loaded == Loaded(Config())


def test_each_source_overrides_the_ones_below_it() -> None:
    toml = '[gateway]\napi_keys = ["toml"]\n[log]\nlevel = "error"\n' + REMOTE
    dotenv = "GATEWAY_API_KEYS=dotenv"
    seed = {"GATEWAY_API_KEYS": "seed1, seed2"}
    own = {"PENSTOCK_GATEWAY__API_KEYS": '["own"]'}

    loads = [
        load(),
        load(toml),
        load(toml, {}, dotenv),
        load(toml, seed, dotenv),
        load(toml, seed | own, dotenv),
    ]
    keys = [[key.get_secret_value() for key in loaded.config.gateway.api_keys] for loaded in loads]

    assert keys == [[], ["toml"], ["dotenv"], ["seed1", "seed2"], ["own"]]


def test_a_name_in_the_environment_beats_any_name_in_the_dotenv_file() -> None:
    loaded = load(None, {"MODEL_NAME": "org/new"}, "PENSTOCK_MODELS__0__NAME=old\nMODEL_PATH=/old")

    assert (loaded.config.models[0].name, loaded.config.models[0].source) == ("new", "org/new")


def test_models_in_the_file_replace_the_demo_model_whole() -> None:
    loaded = load(REMOTE)

    assert [model.name for model in loaded.config.models] == ["m"]


def test_variables_of_one_model_leave_its_other_keys_alone() -> None:
    environ = {"PENSTOCK_MODELS__0__TIMEOUTS__STALL": "7s", "PENSTOCK_MODELS__0__ALIASES": "a, b"}

    model = load(REMOTE, environ).config.models[0]

    assert (model.name, model.aliases, model.timeouts.stall_s) == ("m", ("a", "b"), 7.0)


def test_variables_can_append_a_model() -> None:
    environ = {
        "PENSTOCK_MODELS__1__NAME": "second",
        "PENSTOCK_MODELS__1__ENGINE": "remote",
        "PENSTOCK_MODELS__1__SOURCE": "http://a:1, http://b:2",
    }

    model = load(None, environ).config.models[1]

    assert (model.name, model.sources) == ("second", ("http://a:1", "http://b:2"))


def test_whole_tables_are_given_as_json_and_laid_under_their_keys() -> None:
    environ = {
        "PENSTOCK_MODELS__0__ENGINE_ARGS__N_CTX": "4096",
        "PENSTOCK_MODELS": '[{"name": "x", "engine": "sim", "engine_args": {"n_ctx": 1, "mode": "a"}}]',
        "PENSTOCK_MODELS__0__ENGINE_ARGS__CONFIG": '{"level": 3}',
        "PENSTOCK_LOG": '{"level": "debug"}',
    }

    config = load(None, environ).config

    assert config.models[0].engine_args == {"n_ctx": 4096, "mode": "a", "config": '{"level": 3}'}
    assert config.log.level == "debug"


def test_an_empty_variable_counts_as_absent() -> None:
    loaded = load(
        None, {"PENSTOCK_LOG__LEVEL": "", "TP_SIZE": " ", "SWAP_SPACE_GB": ""}, "QUEUE_CAPACITY=\nWARMUP"
    )

    assert loaded == Loaded(Config())


def test_names_that_are_not_configuration_are_left_alone() -> None:
    environ = {
        "PENSTOCK_API_KEY": "a-clients-key",
        "PENSTOCK_HOME": "/x",
        "PENSTOCK_CONFIG": "/x",
        "PENSTOCK_VLLM_VENV": "/x",
        "PENSTOCK_SIM_API_KEY": "x",
        "PENSTOCK_BENCH_API_KEY": "a-load-testers-key",
        "PENSTOCK_INTERNAL_ANYTHING": "x",
        "PENSTOCKED": "x",
        "HOME": "/root",
    }

    loaded = load(None, environ)

    assert loaded == Loaded(Config())


def test_the_variables_that_kubernetes_makes_for_a_service_are_left_alone() -> None:
    environ = {
        "PENSTOCK_SERVICE_HOST": "10.0.0.1",
        "PENSTOCK_SERVICE_PORT_HTTP": "80",
        "PENSTOCK_PORT": "tcp://10.0.0.1:80",
        "PENSTOCK_GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1",
    }

    loaded = load(None, environ)

    assert loaded == Loaded(Config())


def test_a_port_that_kubernetes_did_not_make_is_a_mistake() -> None:
    lines = mistakes(None, {"PENSTOCK_GATEWAY_PORT": "8080"})

    assert len(lines) == 1
    assert lines[0].startswith("gateway_port: unknown key")


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        (
            '[gateway]\nlistn = "x"',
            "gateway.listn: unknown key; did you mean gateway.listen? (penstock.toml)",
        ),
        (
            REMOTE + "timeouts = { stal = 1 }",
            "models.0.timeouts.stal: unknown key; did you mean models.0.timeouts.stall? (penstock.toml)",
        ),
        ('listen = "a:1"', "listen: unknown key; did you mean gateway.listen? (penstock.toml)"),
        (
            "[log]\nzzz = 1",
            "log.zzz: unknown key, not one of level, format (penstock.toml)",
        ),
        (
            '[log]\nlevel = "warn"',
            "log.level: expected 'debug', 'info', 'warning' or 'error', found \"warn\";"
            ' did you mean "warning"? (penstock.toml)',
        ),
        ('[[models]]\nengine = "sim"', "models.0.name: missing (penstock.toml)"),
        ("models = 3", "models: expected a list, found 3 (penstock.toml)"),
        ("models = []", "models: expected at least one model, found a list (penstock.toml)"),
        ("gateway = [1]", "gateway: expected a table, found a list (penstock.toml)"),
        ("[gateway]\nretries_max = 6", "gateway.retries_max: expected at most 5, found 6 (penstock.toml)"),
        (
            "[gateway]\nretries_max = true",
            "gateway.retries_max: expected a whole number, found true (penstock.toml)",
        ),
        (
            '[gateway]\nlisten = "127.0.0.1:8081"',
            "gateway.admin: expected another address than gateway.listen (127.0.0.1:8081), "
            "found 127.0.0.1:8081 (penstock.toml)",
        ),
        (
            '[[tenants]]\nname = "a"\n[[tenants]]\nname = "a"',
            'tenants.1.name: expected a name other than that of tenants.0.name, found "a" (penstock.toml)',
        ),
        (
            REMOTE + "engine_args = { up = 1 }",
            "models.0.engine_args: expected nothing with engine remote, which Penstock does not start, found",
        ),
        (
            '[[models]]\nname = "m"\nengine = "vllm"\nsource = "x"\nengine_args = { "--tp" = 1 }',
            "models.0.engine_args.--tp: expected a name of lower-case letters, digits and underscores",
        ),
        ('"a.b\\n" = 1', '"a.b\\n": unknown key'),
    ],
)
def test_a_mistake_says_where_what_and_what_instead(toml: str, expected: str) -> None:
    lines = mistakes(toml)

    assert len(lines) == 1
    assert lines[0].startswith(expected)


def test_a_name_used_twice_is_found_among_aliases_of_other_models() -> None:
    toml = REMOTE + REMOTE.replace('"m"', '"other"') + 'aliases = ["m"]\n'

    assert mistakes(toml) == [
        'models.1.aliases.0: expected a name other than that of models.0.name, found "m" (penstock.toml)'
    ]


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("a = \n", "not TOML: Invalid value (penstock.toml line 1)"),
        (
            "a = 1\n[[models]\n",
            "not TOML: Expected ']]' at the end of an array declaration (penstock.toml line 2)",
        ),
        ("a = " + "[" * 50_000, "values nested too deeply (penstock.toml)"),
        (
            "a = 1 2 \x00",
            "not TOML: Expected newline or end of document after a statement (penstock.toml line 1)",
        ),
        ("a = 1\na = 2", "not TOML: Cannot overwrite a value (at end of document) (penstock.toml)"),
        ("a = " + "9" * 5000, "not TOML: Exceeds the limit (4300 digits)"),
    ],
)
def test_a_file_that_is_not_toml_is_reported_with_its_line(toml: str, expected: str) -> None:
    lines = mistakes(toml)

    assert len(lines) == 1
    assert lines[0].startswith(expected)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"PENSTOCK_GATEWAY__LISTN": "x"},
            "gateway.listn: unknown key; did you mean PENSTOCK_GATEWAY__LISTEN? "
            "(environment PENSTOCK_GATEWAY__LISTN)",
        ),
        (
            {"PENSTOCK_HOEM": "x"},
            "hoem: unknown key; did you mean PENSTOCK_HOME? (environment PENSTOCK_HOEM)",
        ),
        (
            {"PENSTOCK_MODELS__FIRST__NAME": "x"},
            "models.first.name: unknown key; did you mean PENSTOCK_MODELS__0__NAME?"
            " (environment PENSTOCK_MODELS__FIRST__NAME)",
        ),
        ({"PENSTOCK_GATEWAY__LISTEN__HOST": "x"}, "gateway.listen.host: unknown key"),
        ({"PENSTOCK_": "x"}, '"": unknown key'),
        (
            {"PENSTOCK_GATEWAY__BODY_MAX": "much"},
            "gateway.body_max: expected a size from 1KB to 1GB, such as 512KB, 10MB or 16MiB, "
            'found "much" (environment PENSTOCK_GATEWAY__BODY_MAX)',
        ),
        (
            {"PENSTOCK_LOG": "level=debug"},
            "log: expected a table, or a list of tables, as JSON, found other text",
        ),
        (
            {"PENSTOCK_MODELS__5__NAME": "x"},
            "models.5.name: expected an index up to 1, the next free one, found a gap",
        ),
        (
            {"PENSTOCK_MODELS__0__ALIASES": "[1"},
            "models.0.aliases: expected a list as JSON, or entries separated",
        ),
        (
            {"TP_SIZE": "all", "MODEL_NAME": "a/b"},
            "models.0.engine_args.tensor_parallel_size: expected a whole number",
        ),
        (
            {"GPU_UTIL": "90"},
            "models.0.engine_args.gpu_memory_utilization: expected a share above 0 and up to 1",
        ),
        ({"PENSTOCK_MODELS__0__ENGINE": "remote"}, "models.0.source: expected 1 to 64 different URLs"),
    ],
)
def test_a_mistake_in_a_variable_names_the_variable(environ: dict[str, str], expected: str) -> None:
    lines = mistakes(None, environ)

    assert len(lines) == 1
    assert lines[0].startswith(expected)


def test_the_origin_is_the_source_that_set_the_value() -> None:
    environ = {"PENSTOCK_MODELS__0__NAME": "a b", "PENSTOCK_GATEWAY__LISTEN": "x"}
    dotenv = "PENSTOCK_LOG__LEVEL=loud"

    lines = mistakes(REMOTE + "[gateway]\nadmin = 'y'", environ, dotenv)

    assert [line.rpartition("(")[2] for line in lines] == [
        "environment PENSTOCK_GATEWAY__LISTEN)",
        "penstock.toml)",
        ".env PENSTOCK_LOG__LEVEL)",
        "environment PENSTOCK_MODELS__0__NAME)",
    ]


def test_all_mistakes_of_all_sources_are_reported_at_once() -> None:
    toml = (
        '[gateway]\nlistn = 1\nbody_max = "x"\n'
        '[[models]]\nname = "m"\nengine = "vlm"\nport = 8000\ntimeouts = { total = "1s", stall = "2s" }\n'
        '[[models]]\nname = "m"\nengine = "remote"\nreplicas = 2\n[console]\n'
    )

    lines = mistakes(toml, {"PENSTOCK_TYPO": "1"}, "# comment\n\nnot a setting\nGPU_UTIL=2\n")

    assert [line.partition(": ")[0] for line in lines] == [
        "a line that is not NAME=value (.env line 3)",
        "models.0.engine_args.gpu_memory_utilization",
        "typo",
        "gateway.body_max",
        "gateway.listn",
        "models.0.engine",
        "models.0.timeouts.stall",
        "models.0.port",
        "models.1.source",
        "models.1.replicas",
        "console",
        "models.1.name",
    ]


def test_a_configuration_error_is_one_of_penstocks_errors_and_lists_every_line() -> None:
    with pytest.raises(PenstockError) as caught:
        load("[log]\nlevl = 1\nformt = 1")

    assert caught.value.code == "invalid_configuration"
    assert caught.value.message.count("\n") == 1
    assert "penstock.example.toml" in caught.value.hint


@pytest.mark.parametrize(
    ("toml", "environ", "dotenv"),
    [
        ('[gateway]\napi_keys = ["SECRET with blank", 3]', {}, ""),
        ('[gateway]\napi_keys = "SECRET"', {}, ""),
        (REMOTE + 'api_key = ["SECRET"]', {}, ""),
        (REMOTE + 'api_key = "SECRET with blank"', {}, ""),
        (REMOTE.replace("http://h:1", "http://u:SECRET@h:1"), {}, ""),
        ('[[models]]\nname = "m"\nengine = "sim"\napi_key = "SECRET"', {}, ""),
        ('[[models]]\nname = "m"\nengine = "sim"\nengine_args = { token = ["SECRET", inf] }', {}, ""),
        ('[gateway]\napi_key = "SECRET"', {}, ""),
        ("", {"PENSTOCK_GATEWAY__API_KEYS": '["SECRET'}, ""),
        ("", {"PENSTOCK_GATEWAY": "api_keys=SECRET"}, ""),
        ("", {"PENSTOCK_MODELS": '[{"api_key": "SECRET"'}, ""),
        ("", {"PENSTOCK_API_KEYS": "SECRET"}, ""),
        ("", {"GATEWAY_API_KEYS": "SECRET é"}, ""),
        ("", {}, "SECRET"),
        ("api_key = SECRET", {}, ""),
    ],
)
def test_no_mistake_shows_a_secret(toml: str, environ: dict[str, str], dotenv: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(toml, environ, dotenv + " x y" if dotenv else None)

    assert "SECRET" not in f"{caught.value!r} {caught.value} {caught.value.__context__!r}"


def test_no_mistake_in_any_secret_shows_it() -> None:
    secrets = [path for path, info in settings() if "SecretStr" in repr(info.annotation)]

    said = "".join(
        line for path in secrets for line in mistakes(None, {variable_of(path): "SECRET and blanks"})
    )

    assert len(secrets) >= 8
    assert "SECRET" not in said


def test_headers_are_a_table_in_a_variable_as_well() -> None:
    loaded = load(None, {"PENSTOCK_TRACES__HEADERS": '{"x-api-key": "k"}'})

    assert loaded.config.traces.headers == {"x-api-key": SecretStr("k")}


def test_a_loaded_configuration_shows_no_secret() -> None:
    dotenv = "GATEWAY_API_KEYS=SECRET\nHF_TOKEN=SECRET\nVLLM_API_KEY=SECRET\nMODEL_NAME=org/m"

    loaded = load(None, {}, dotenv)

    assert "SECRET" not in repr(loaded)
    assert loaded.engine_environ == {"HF_TOKEN": SecretStr("SECRET")}


def test_the_origin_of_a_replaced_table_is_the_source_that_replaced_it() -> None:
    environ = {"PENSTOCK_MODELS": '[{"name": "still bad", "engine": "sim"}, {"name": "x"}]'}

    lines = mistakes(None, environ, "PENSTOCK_MODELS__0__NAME=not good")

    assert [line.rpartition(" (")[2] for line in lines] == ["environment PENSTOCK_MODELS)"] * 2


def test_a_byte_order_mark_before_the_file_does_no_harm() -> None:
    loaded = load("\ufeff" + REMOTE)

    assert loaded.config.models[0].name == "m"


def test_a_value_is_shown_short_and_on_one_line() -> None:
    (long,) = mistakes("[log]\nlevel = '" + "x" * 500 + "'")
    (odd,) = mistakes('[log]\nlevel = "a\\u2028b"')

    assert len(long) < 200
    assert "a\\u2028b" in odd
