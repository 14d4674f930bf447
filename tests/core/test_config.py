import pytest
from pydantic import SecretStr, ValidationError

from penstock.core.config import Address, ClickHouseConfig, Config, ModelConfig, TenantConfig, Timeouts
from penstock.core.config_model import Health


def test_without_any_file_the_demo_model_is_served() -> None:
    config = Config()

    assert [(model.name, model.engine, model.sources) for model in config.models] == [
        ("penstock-demo", "llamacpp", ("demo",))
    ]
    assert (str(config.gateway.listen), str(config.gateway.admin)) == ("127.0.0.1:8080", "127.0.0.1:8081")
    assert config.tenants == ()


def test_attributes_carry_the_unit_that_keys_do_not() -> None:
    config = Config.model_validate({"gateway": {"body_max": "2MB", "drain_timeout": "1m"}})

    assert (config.gateway.body_max_bytes, config.gateway.drain_timeout_s) == (2_000_000, 60.0)


def test_a_key_can_not_be_spelled_as_its_attribute() -> None:
    with pytest.raises(ValidationError, match="stall_s"):
        Timeouts.model_validate({"stall_s": 3})


def test_a_configuration_can_not_be_changed() -> None:
    config = Config()

    with pytest.raises(ValidationError, match="frozen"):
        config.log.level = "debug"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:0", "::1", 0),
        ("my-host.lan:65535", "my-host.lan", 65535),
    ],
)
def test_an_address_is_printed_as_it_was_read(text: str, host: str, port: int) -> None:
    address = Address.parse(text)

    assert address == Address(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":8080",
        "8080",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "::1:80",
        "[host]:1",
        "[fe80::1%eth0]:1",
        "a b:1",
        "h:٣",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "[::]:80", True),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
    ],
)
def test_addresses_overlap_when_both_can_not_be_bound(one: str, other: str, expected: bool) -> None:
    overlaps = Address.parse(one).overlaps(Address.parse(other))

    assert overlaps is expected


def test_a_remote_model_has_one_source_for_each_replica() -> None:
    model = ModelConfig(name="m", engine="remote", source=("http://a:1", "http://[::1]:2"))

    assert model.sources == ("http://a:1", "http://[::1]:2")


def test_a_simulated_model_has_no_source() -> None:
    model = ModelConfig(name="m", engine="sim")

    assert model.sources == ()


@pytest.mark.parametrize(
    "source",
    [
        "",
        [],
        "http://a",
        "http://a:0",
        "http://a:1/v1",
        "http://u:p@a:1",
        ["http://a:1", "http://a:1"],
    ],
)
def test_a_remote_model_takes_only_distinct_base_urls(source: str | list[str]) -> None:
    with pytest.raises(ValidationError, match="different URLs"):
        ModelConfig.model_validate({"name": "m", "engine": "remote", "source": source})


@pytest.mark.parametrize(
    "url", ["http://ch:99999", "http://ch:0", "http://[::::]:8123", "http://u:p@ch:8123", "http://ch:8123/db"]
)
def test_a_clickhouse_is_at_an_address_and_nothing_more(url: str) -> None:
    with pytest.raises(ValidationError, match="expected a URL such as http://host:8123"):
        ClickHouseConfig.model_validate({"url": url})


def test_a_remote_url_with_tls_is_answered_with_what_to_do() -> None:
    with pytest.raises(ValidationError, match="no TLS to engines: put a TLS proxy"):
        ModelConfig.model_validate({"name": "m", "engine": "remote", "source": ["http://a:1", "https://a:1"]})


@pytest.mark.parametrize("source", ["owner/repo/file.gguf", "owner/repo:Q4_K_M", "./a.gguf"])
def test_a_gguf_file_may_be_on_the_hub(source: str) -> None:
    assert ModelConfig(name="m", engine="llamacpp", source=source).source == source


@pytest.mark.parametrize(
    ("engine", "key", "value"),
    [
        ("sim", "venv", "/opt/vllm"),
        ("llamacpp", "image", "vllm/vllm-openai"),
        ("transformers", "image", "vllm/vllm-openai"),
        ("vllm", "health_path", "/health"),
        ("vllm", "metrics", {"running": "a:b"}),
    ],
)
def test_a_setting_for_another_engine_is_refused(engine: str, key: str, value: object) -> None:
    source = {"sim": "", "llamacpp": "demo"}.get(engine, "owner/model")

    with pytest.raises(ValidationError, match=f"with engine {engine}: it is for "):
        ModelConfig.model_validate({"name": "m", "engine": engine, "source": source, key: value})


def test_an_engine_runs_in_an_environment_or_in_a_container() -> None:
    with pytest.raises(ValidationError, match="in one or the other"):
        ModelConfig(name="m", engine="vllm", source="owner/model", venv="/opt/vllm", image="vllm/vllm-openai")


@pytest.mark.parametrize(
    ("key", "value"),
    [("health_path", "health"), ("health_path", "/a b"), ("metrics", {"running": "a b"}), ("image", "--rm")],
)
def test_what_goes_into_a_request_or_a_command_is_checked(key: str, value: object) -> None:
    engine, source = ("vllm", "owner/model") if key == "image" else ("remote", "http://h:1")

    with pytest.raises(ValidationError, match=r"expected (a path|the name)"):
        ModelConfig.model_validate({"name": "m", "engine": engine, "source": source, key: value})


@pytest.mark.parametrize(
    ("engine", "source"),
    [("llamacpp", ""), ("llamacpp", "model.bin"), ("vllm", ""), ("vllm", ["a", "b"]), ("sim", "demo")],
)
def test_a_source_must_suit_its_engine(engine: str, source: object) -> None:
    with pytest.raises(ValidationError, match=f"with engine {engine}"):
        ModelConfig.model_validate({"name": "m", "engine": engine, "source": source})


@pytest.mark.parametrize(
    ("engine", "source", "key", "value"),
    [
        ("remote", "http://a:1", "replicas", 1),
        ("remote", "http://a:1", "engine_args", {"a": 1}),
        ("sim", "", "api_key", "k"),
        ("llamacpp", "demo", "api_key", "k"),
    ],
)
def test_a_key_without_effect_is_refused(engine: str, source: str, key: str, value: object) -> None:
    with pytest.raises(ValidationError, match="expected nothing with engine"):
        ModelConfig.model_validate({"name": "m", "engine": engine, "source": source, key: value})


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\nb", "\x00", "x" * 129, "a\u2028"])
def test_a_name_has_no_blanks_and_a_limit(name: str) -> None:
    with pytest.raises(ValidationError, match="1 to 128 characters"):
        TenantConfig(name=name)


@pytest.mark.parametrize("value", [0, 65, True, 1.5, "two", None, 10**30])
def test_a_count_is_a_whole_number_in_its_range(value: object) -> None:
    with pytest.raises(ValidationError, match="replicas"):
        ModelConfig.model_validate({"name": "m", "engine": "sim", "replicas": value})


@pytest.mark.parametrize("value", [0, "0s", "25h", "-1s", "soon", True, "9" * 400, float("nan")])
def test_a_timeout_is_a_duration_in_its_range(value: object) -> None:
    with pytest.raises(ValidationError, match="from 1ms to 24h"):
        Timeouts.model_validate({"connect": value})


@pytest.mark.parametrize("value", ["1B", "2GB", "9" * 400, None])
def test_a_size_has_a_range(value: object) -> None:
    with pytest.raises(ValidationError, match="from 1KB to 1GB"):
        Config.model_validate({"gateway": {"body_max": value}})


@pytest.mark.parametrize("value", [None, float("inf"), {"a": None}, [{"a": float("nan")}], "too deep"])
def test_an_engine_option_holds_plain_values(value: object) -> None:
    value = [[[[[[[[[1]]]]]]]]] if value == "too deep" else value

    with pytest.raises(ValidationError, match="true or false"):
        ModelConfig.model_validate({"name": "m", "engine": "sim", "engine_args": {"a": value}})


def test_a_phase_that_is_set_must_fit_into_the_total() -> None:
    with pytest.raises(ValidationError, match="at most the total of 5s"):
        Timeouts.model_validate({"total": "5s", "stall": "6s"})


def test_a_stall_is_left_to_the_engine_unless_it_is_set_and_not_to_less_than_its_looks_can_tell() -> None:
    assert Health().stall_s is None
    assert Health.model_validate({"stall": "2s", "restart_after": "10m"}).restart_after_s == 600.0
    with pytest.raises(ValidationError, match="expected at least 2s"):
        Health.model_validate({"stall": "1999ms"})


def test_a_phase_left_at_its_default_is_cut_short_by_the_total() -> None:
    timeouts = Timeouts.model_validate({"total": "5s"})

    assert (timeouts.total_s, timeouts.first_token_s) == (5.0, 60.0)


def test_a_printed_configuration_shows_no_secret() -> None:
    config = Config.model_validate(
        {
            "gateway": {"api_keys": ["sk-gateway"]},
            "models": [{"name": "m", "engine": "vllm", "source": "x", "api_key": "sk-engine"}],
        }
    )

    assert config.gateway.api_keys == (SecretStr("sk-gateway"),)
    assert "sk-" not in f"{config!r} {config} {config.model_dump_json()}"


def test_a_refused_value_is_not_repeated_by_pydantic() -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"gateway": {"api_keys": ["sk-with blank"]}})

    assert "sk-with" not in str(caught.value)


@pytest.mark.parametrize("source", ["a\nb", "a\x00", ["http://h:1", 3], 3, None])
def test_a_source_is_a_line_of_text_or_a_list_of_these(source: object) -> None:
    with pytest.raises(ValidationError, match="one line of text"):
        ModelConfig.model_validate({"name": "m", "engine": "vllm", "source": source})


def test_a_server_on_every_interface_is_reached_at_home() -> None:
    assert Address("0.0.0.0", 1).reachable() == Address("127.0.0.1", 1)
    assert Address("::", 1).reachable() == Address("::1", 1)
    assert Address("10.0.0.1", 1).reachable() == Address("10.0.0.1", 1)
