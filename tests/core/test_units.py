import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.units import format_duration, format_size, parse_duration_s, parse_size_bytes


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("500ms", 0.5),
        ("2s", 2.0),
        ("10m", 600.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        (" 1_000 s ", 1000.0),
        (7, 7.0),
    ],
)
def test_a_duration_is_read_in_the_unit_it_names(text: str | int, expected_s: float) -> None:
    duration_s = parse_duration_s(text)

    assert duration_s == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("text", "expected_bytes"),
    [
        ("512KB", 512_000),
        ("10MB", 10**7),
        ("1GiB", 2**30),
        ("1.5kib", 1536),
        ("7", 7),
        (0, 0),
        ("1TB", 10**12),
    ],
)
def test_a_size_is_read_in_the_unit_it_names(text: str | int, expected_bytes: int) -> None:
    size_bytes = parse_size_bytes(text)

    assert size_bytes == expected_bytes


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 fortnight", "1e3", "٣s!", True, None, [], "nan", "inf"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected a duration|is none of ms, s"):
        parse_duration_s(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1 XB", "1e3", False, None, {}])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected a size|is none of B, KB"):
        parse_size_bytes(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.25, "0.25s"), (12, "12s"), (119, "119s"), (180, "3m"), (7200, "2h")]
)
def test_a_duration_is_written_in_the_unit_that_keeps_it_short(seconds: float, expected: str) -> None:
    text = format_duration(seconds)

    assert text == expected


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(512, "512 B"), (10**7, "10.0 MB"), (2 * 10**9, "2.0 GB"), (10**12, "1.0 TB")],
)
def test_a_size_is_written_in_decimal_units(size_bytes: int, expected: str) -> None:
    text = format_size(size_bytes)

    assert text == expected


@given(st.integers(min_value=0, max_value=10**15))
def test_a_written_size_reads_back_within_its_rounding(size_bytes: int) -> None:
    read_bytes = parse_size_bytes(format_size(size_bytes))

    assert read_bytes == pytest.approx(size_bytes, rel=0.06)


@given(st.floats(min_value=0, max_value=10**6))
def test_a_written_duration_reads_back_within_its_rounding(seconds: float) -> None:
    text = format_duration(seconds)

    if "e" not in text:
        assert parse_duration_s(text) == pytest.approx(seconds, rel=0.26, abs=1e-4)
