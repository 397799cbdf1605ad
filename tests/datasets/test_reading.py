"""Uploads in each format, with chunks of any size and with damage of any kind."""

import csv
import gzip
import io
import json
import tracemalloc
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.datasets import json_rows
from app.datasets.containers import TextFormat
from app.datasets.reading import DatasetReader, ReadLimits
from app.datasets.row_errors import InvalidDatasetError, RowProblem
from app.datasets.spooling import SpooledFile

ROW = b'{"chosen": "good", "rejected": "bad"}\n'
MIB = 1 << 20
# The machine may be busy; a slow example is not a failure.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def pairs(data: bytes, text_format: TextFormat = "jsonl", size: int = 1000) -> list[dict[str, Any]]:
    blocks = b"".join(DatasetReader().read(cut(data, size), text_format))
    return [json.loads(line) for line in blocks.split(b"\n")[:-1]]


def refusal(
    data: bytes, text_format: TextFormat = "jsonl", limits: ReadLimits | None = None
) -> InvalidDatasetError:
    with pytest.raises(InvalidDatasetError) as caught:
        list(DatasetReader(limits).read(cut(data, 50_000), text_format))
    return caught.value


def only_problem(data: bytes, text_format: TextFormat = "jsonl") -> RowProblem:
    error = refusal(data, text_format)
    assert len(error.rows) == error.bad_line_count == 1
    return error.rows[0]


# --- generated pairs, in each format -----------------------------------------------------------

texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30
).filter(lambda text: not text.isspace())
# Half of the texts consist of separators of cells, lines and tokens.
awkward = st.text(
    st.sampled_from('",\n\r\\;\u2028\x85\x1e[]{}é😀a'), min_size=1, max_size=12
).filter(lambda text: not text.isspace())
any_text = texts | awkward


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, str]]:
    turns = draw(st.lists(st.tuples(st.sampled_from(["system", "user"]), any_text), max_size=2))
    messages = [{"role": role, "content": text} for role, text in turns]
    return [*messages, {"role": "assistant", "content": draw(any_text)}]


def repeats(prompt: Any, side: Any) -> bool:
    """Return whether a reply begins with the prompt; only one may have a system message."""
    if isinstance(prompt, list):
        prompt, side = (each[each[0]["role"] == "system" :] for each in (prompt, side))
    return bool(side[: len(prompt)] == prompt)


@st.composite
def datasets(draw: st.DrawFn) -> list[dict[str, Any]]:
    side = draw(st.sampled_from([any_text, conversations()]))
    columns: dict[str, st.SearchStrategy[Any]] = {"chosen": side, "rejected": side}
    if draw(st.booleans()):
        columns["prompt"] = side
    if draw(st.booleans()):
        columns["margin"] = st.floats(0, 1e300) | st.integers(0, 2**53).map(float)
    if draw(st.booleans()):
        columns["slice"] = st.sampled_from(["maths", "fråga", "a,b"])
    row = st.fixed_dictionaries(columns).filter(
        lambda row: (
            row["chosen"] != row["rejected"]
            and not any(
                repeats(row["prompt"], row[name])
                for name in ("chosen", "rejected")
                if "prompt" in row
            )
        )
    )
    return draw(st.lists(row, min_size=1, max_size=5))


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(rows[0])
    for row in rows:
        cells = (row[name] for name in rows[0])
        writer.writerow(json.dumps(cell) if isinstance(cell, list) else cell for cell in cells)
    return out.getvalue().encode()


def whole(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with prompt and reply joined, so that their boundary does not matter."""
    prompt = row.get("prompt", row["chosen"][:0])
    sides = {name: prompt + row[name] for name in ("chosen", "rejected")}
    return {name: row[name] for name in ("margin", "slice") if name in row} | sides


@unhurried
@given(datasets(), st.integers(1, 40), st.booleans())
def test_pairs_come_through_jsonl_and_gzip(
    rows: list[dict[str, Any]], size: int, is_ascii: bool
) -> None:
    data = "".join(json.dumps(row, ensure_ascii=is_ascii) + "\n" for row in rows).encode()
    read = pairs(data, "jsonl", size)
    assert list(map(whole, read)) == list(map(whole, rows))
    assert [pair["line"] for pair in read] == list(range(1, len(rows) + 1))
    assert pairs(gzip.compress(data, mtime=0), "jsonl", size) == read


@unhurried
@given(datasets(), st.integers(1, 40))
def test_pairs_come_through_csv(rows: list[dict[str, Any]], size: int) -> None:
    read = pairs(as_csv(rows), "csv", size)
    assert list(map(whole, read)) == list(map(whole, rows))
    assert pairs(gzip.compress(as_csv(rows), mtime=0), "csv", size) == read


@settings(unhurried, max_examples=8)
@given(datasets())
def test_pairs_come_through_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    blocks = b"".join(DatasetReader().read_columnar(SpooledFile(path)))
    read = [json.loads(line) for line in blocks.split(b"\n")[:-1]]
    assert list(map(whole, read)) == list(map(whole, rows))


@unhurried
@given(datasets())
def test_canonical_jsonl_reads_back_as_itself(rows: list[dict[str, Any]]) -> None:
    once = b"".join(DatasetReader().read([as_jsonl(rows)], "jsonl"))
    assert b"".join(DatasetReader().read([once], "jsonl")) == once


def test_stored_reply_may_begin_like_its_prompt() -> None:
    system, replies = {"role": "system", "content": "s"}, [{"role": "assistant", "content": "a"}]
    row = {"chosen": [system, *replies], "rejected": [system, system, *replies]}
    once = b"".join(DatasetReader().read([as_jsonl([row])], "jsonl"))
    assert json.loads(once)["prompt"] == [system]
    assert b"".join(DatasetReader().read([once], "jsonl")) == once


# --- bytes that are not a dataset ---------------------------------------------------------------

fragments = st.sampled_from(
    [ROW, b'{"chosen":', b'"', b"[", b"\n", b"\r\n", b"\0", b"\xff", b"NaN", b"{", b"}", b",",
     b'[{"role":"user"', b"\xef\xbb\xbf", b"chosen,rejected\n", b"a,b\n", b"1e999", b"\\ud800"]
)  # fmt: skip
hostile = st.binary(max_size=200) | st.lists(fragments, max_size=30).map(b"".join)


@settings(unhurried, max_examples=300)
@given(hostile, st.sampled_from(["jsonl", "csv"]), st.integers(1, 60), st.booleans())
def test_any_bytes_are_read_or_refused(
    data: bytes, text_format: TextFormat, size: int, is_gzip: bool
) -> None:
    upload = gzip.compress(data, mtime=0) if is_gzip else data
    outcome = read_or_refusal(cut(upload, size), text_format)
    if isinstance(outcome, int):
        assert outcome > 0
        return
    assert 1 <= len(outcome.rows) == len(outcome.problems) <= min(10, outcome.bad_line_count)
    outcome.detail.encode()


@unhurried
@given(st.binary(max_size=60), st.integers(0, 60))
def test_damaged_gzip_is_read_or_refused(noise: bytes, at: int) -> None:
    packed = gzip.compress(ROW * 3, mtime=0)
    damaged = packed[:at] + noise + packed[at + len(noise) :]
    assert read_or_refusal([damaged], "jsonl")


def read_or_refusal(chunks: Iterable[bytes], text_format: TextFormat) -> int | InvalidDatasetError:
    """Return the number of pairs, or the only exception that reading may raise."""
    reader = DatasetReader()
    try:
        blocks = b"".join(reader.read(chunks, text_format))
    except InvalidDatasetError as error:
        return error
    assert blocks.count(b"\n") == reader.summary.pair_count
    return reader.summary.pair_count


# --- lines that cannot be read ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "column", "offset", "says"),
    [
        (b'{"chosen": "\xe9"}', "invalid_utf8", None, 13, "0xe9"),
        (b'{"chosen": "a",}', "invalid_json", None, 16, "at character 16"),
        (b'{"chosen": "a"} x', "invalid_json", None, 17, "the object has ended"),
        (b'{"chosen" "a"}', "invalid_json", None, 11, "a colon is missing"),
        (b'{"chosen": "a\tb"}', "invalid_json", None, 14, "must be escaped"),
        (b'{"chosen": "\\x"}', "invalid_json", None, 13, "no such escape sequence"),
        (b'{"chosen": "a', "invalid_json", None, 12, "does not end"),
        (b'{chosen: "a"}', "invalid_json", None, 2, "double quotes"),
        (b'{"chosen": ' + b"1" * 5000 + b"}", "invalid_json", None, None, "digits"),
        (b'{"chosen": "a", "chosen": "b"}', "duplicate_key", "chosen", None, '"chosen"'),
        (b'{"chosen": [{"role": 1, "role": 2}]}', "duplicate_key", "role", None, '"role"'),
        (b'{"chosen": "a", "margin": NaN}', "non_finite_number", "margin", None, "NaN"),
        (b'{"x": {"y": [0, -Infinity]}}', "non_finite_number", "x.y[1]", None, "-Infinity"),
        (b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}", "too_deep", None, None, "32 levels"),
        (b'{"x": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", "too_deep", None, None, "32 levels"),
        (b'"chosen"', "not_an_object", None, None, '"chosen"'),
        (b"[1]", "not_an_object", None, None, "a list"),
        (b'{"chosen": "' + b"a" * MIB + b'"}', "line_too_long", None, None, "1048576 bytes"),
        (
            b'{"chosen": "a", "rejected": "b", "margin": 1e999}',
            "invalid_margin",
            "margin",
            None,
            "inf",
        ),
    ],
)
def test_bad_line_is_told_with_its_number(
    line: bytes, code: str, column: str | None, offset: int | None, says: str
) -> None:
    problem = only_problem(ROW + b"\n" + line + b"\n" + ROW)
    assert (problem.line, problem.code, problem.column) == (3, code, column)
    assert problem.offset == offset
    assert says in problem.message
    assert len(problem.message) < 200


def test_nesting_of_32_is_read() -> None:
    nested = b'{"x": ' + b"[" * 31 + b"]" * 31 + b', "chosen": "good", "rejected": "bad"}'
    assert len(pairs(nested)) == 1


def test_line_of_just_one_mebibyte_is_read() -> None:
    line = ROW.strip() + b" " * (MIB - len(ROW.strip()))
    assert len(pairs(line + b"\n" + ROW, size=70_000)) == 2


def test_byte_order_mark_blank_lines_and_crlf_are_fine() -> None:
    data = b"\xef\xbb\xbf" + ROW.replace(b"\n", b"\r\n") + b"\r\n \n" + ROW.strip()
    assert [pair["line"] for pair in pairs(data)] == [1, 4]


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_empty_upload_has_no_rows(data: bytes) -> None:
    assert only_problem(data).message == "dataset has no rows"
    assert only_problem(data).code == "empty_dataset"


@pytest.mark.parametrize("data", [b"", b"chosen,rejected\n", b"chosen,rejected"])
def test_empty_csv_has_no_rows(data: bytes) -> None:
    assert only_problem(data, "csv").code == "empty_dataset"


def test_first_ten_bad_lines_are_named_and_all_are_counted() -> None:
    data = (ROW + b'{"chosen": [{"role": "user"}], "rejected": ""}\n') * 25
    error = refusal(data)
    assert [row.line for row in error.rows] == list(range(2, 22, 2))
    assert (error.bad_line_count, error.is_counted_to_end) == (25, True)
    assert error.problems[0].loc == "/lines/2/chosen/0/content"
    assert error.detail == "25 lines are not usable, the first is line 2. Nothing was stored."
    assert error.hint == (
        "Correct the lines, of which the first 10 are named, and upload the file again. To store "
        "the dataset without them, set on_invalid=skip."
    )


@pytest.mark.parametrize("count", [1, 2, 10, 11])
def test_refusal_says_each_thing_once(count: int) -> None:
    error = refusal(b'{"chosen": "a", "rejected": null}\n' * count)
    assert error.hint is not None
    (message,) = {problem.message for problem in error.problems}
    assert message not in error.hint
    assert error.detail.count(message) == (count == 1)
    assert error.problems[0].hint not in error.detail
    assert (error.problems[0].hint == error.hint) == (count == 1)


def test_counting_bad_lines_stops_at_the_limit() -> None:
    error = refusal(b"x\n" * 500 + b"\xff", limits=ReadLimits(max_bad_lines=30))
    assert (error.bad_line_count, error.is_counted_to_end) == (30, False)
    assert error.detail.startswith("At least 30 lines")


def test_nothing_is_yielded_after_the_first_bad_line() -> None:
    long = json.dumps({"chosen": "g" * 300_000, "rejected": "b"}).encode() + b"\n"
    blocks = DatasetReader().read([long, b"{}\n", long, long], "jsonl")
    assert len(next(blocks)) > 300_000
    with pytest.raises(InvalidDatasetError):
        next(blocks)


def test_errors_of_the_upload_itself_pass_through() -> None:
    def broken() -> Iterator[bytes]:
        yield ROW
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        list(DatasetReader().read(broken(), "jsonl"))


def test_summary_says_what_was_in_the_file() -> None:
    reader = DatasetReader()
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 1, "id": 7}
    data = as_jsonl([row, row | {"slice": "s"}])
    assert list(reader.read([data], "jsonl"))
    assert reader.summary.model_dump() == {
        "row_count": 2,
        "pair_count": 2,
        "row_form": "pairs",
        "shape": "pairs",
        "format": "text",
        "prompt": "explicit",
        "has_margin": True,
        "has_tools": False,
        "is_rendered": False,
        "rows_by_pairs": {},
        "skippable_share": 0.0,
        "slices": {"s": 1},
        "ignored_columns": ["id"],
        "chat_template_kwargs": {},
        "skipped": [],
        "warnings": [],
    }


# --- sizes --------------------------------------------------------------------------------------


def test_too_many_bytes_or_rows_stop_the_reading() -> None:
    assert refusal(ROW * 9, limits=ReadLimits(max_bytes=100)).rows[0].code == "too_large"
    error = refusal(ROW * 9, limits=ReadLimits(max_rows=3))
    assert (error.rows[0].code, error.rows[0].line) == ("too_many_rows", 4)
    assert "more than 3 rows" in error.detail


def test_gzip_bomb_is_refused_in_little_memory() -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(squeeze.compress(b" " * MIB) for _ in range(300)) + squeeze.flush()
    tracemalloc.start()
    try:
        problem = only_problem(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert problem.code == "compression_ratio"
    assert peak < 8 * MIB


def test_gzip_of_several_members_and_padding_is_one_file() -> None:
    data = gzip.compress(ROW + ROW[:9], mtime=0) + gzip.compress(ROW[9:], mtime=0) + b"\0" * 600
    assert len(pairs(data, size=7)) == 2


def test_cut_off_gzip_is_refused() -> None:
    problem = only_problem(gzip.compress(ROW * 50, mtime=0)[:-12])
    assert (problem.code, problem.message) == ("invalid_gzip", "the gzip data end too early")


def test_memory_stays_small_however_the_upload_is_cut() -> None:
    endless_line = (b"ab" * 20 for _ in range(MIB // 4))
    row = json.dumps({"chosen": "g" * 4000, "rejected": "b"}).encode() + b"\n"
    tracemalloc.start()
    try:
        with pytest.raises(InvalidDatasetError):
            list(DatasetReader().read(endless_line, "jsonl"))
        line_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        for _ in DatasetReader().read((row * 50 for _ in range(80)), "jsonl"):
            pass
        rows_peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert line_peak < 6 * MIB
    assert rows_peak < 6 * MIB


# --- CSV ----------------------------------------------------------------------------------------


def test_csv_cells_become_text_messages_numbers_or_nothing() -> None:
    good = json.dumps([{"role": "assistant", "content": "a\nb"}])
    bad = json.dumps([{"role": "assistant", "content": "c"}])
    out = io.StringIO(newline="")
    csv.writer(out).writerows(
        [
            ["prompt", " chosen", "rejected", "margin", "slice", "note"],
            ["", good, bad, " 1.5", "", "x"],
        ]
    )
    (pair,) = pairs(out.getvalue().encode(), "csv")
    assert pair == {
        "chosen": [{"role": "assistant", "content": "a\nb"}],
        "rejected": [{"role": "assistant", "content": "c"}],
        "margin": 1.5,
        "line": 2,
    }


@pytest.mark.parametrize(
    ("data", "line", "code", "column"),
    [
        ("chosen;rejected\na;b\n", 1, "wrong_format", None),
        ("chosen,reply\na,b\n", 1, "missing_column", "rejected"),
        ("chosen,rejected,chosen\na,b,c\n", 1, "duplicate_column", "chosen"),
        ('"chosen"x,rejected\na,b\n', 1, "invalid_csv", None),
        ("chosen,rejected\na,b\na,b,c\n", 3, "wrong_cell_count", None),
        ('chosen,rejected\n"a\n\nb",c\n"a"b,c\n', 5, "invalid_csv", None),
        ('chosen,rejected\na,b\n"a,b\n', 3, "invalid_csv", None),
        ("chosen,rejected\na,\n", 2, "empty_text", "rejected"),
        ("chosen,rejected,margin\na,b,much\n", 2, "invalid_margin", "margin"),
        ("chosen,rejected,margin\na,b,nan\n", 2, "invalid_margin", "margin"),
        ("chosen,rejected,margin\na,b,1_0\n", 2, "invalid_margin", "margin"),
        ("chosen,rejected\n\"[{'role': 'user', 'content': 'a'}]\",b\n", 2, "python_repr", "chosen"),
        ('chosen,rejected\n"[{""role"": ]",b\n', 2, "invalid_json", "chosen"),
        ("chosen,rejected\na,a\n", 2, "identical_pair", "rejected"),
    ],
)
def test_bad_csv_is_told_with_its_line(data: str, line: int, code: str, column: str | None) -> None:
    problem = only_problem(data.encode(), "csv")
    assert (problem.line, problem.code, problem.column) == (line, code, column)


def test_csv_goes_on_after_a_bad_record() -> None:
    error = refusal(b'chosen,rejected\n\xff,b\n"a"x,b\nc,d\na,b,c\n', "csv")
    assert [(row.line, row.code) for row in error.rows] == [
        (2, "invalid_utf8"),
        (3, "invalid_csv"),
        (5, "wrong_cell_count"),
    ]


def test_open_quote_is_told_at_its_own_line() -> None:
    error = refusal(b'chosen,rejected\na,b\n"open,b\n' + b"c,d\n" * 400_000, "csv")
    assert (error.rows[0].line, error.rows[0].code) == (3, "line_too_long")
    assert not error.is_counted_to_end


def test_csv_cell_may_be_longer_than_python_allows_by_default() -> None:
    (pair,) = pairs(b"chosen,rejected\n" + b"a" * 200_000 + b",b\n", "csv")
    assert len(pair["chosen"]) == 200_000


# --- pieces -------------------------------------------------------------------------------------


def test_file_in_small_pieces_equals_the_file_at_once() -> None:
    data = b"".join(
        json.dumps({"prompt": f"Frage {n}?", "chosen": "ja " * n, "rejected": "nein"}).encode()
        + b"\n"
        for n in range(1, 400)
    )
    assert pairs(data, size=1) == pairs(data, size=len(data))


def test_line_of_a_writer_of_ascii_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> object:
        raise AssertionError("the fast parser reads it")

    monkeypatch.setattr(json_rows, "json_value", parse)
    row = {"chosen": "Málaga", "rejected": "\U0001f600"}
    assert json_rows.json_row(json.dumps(row).encode()) == row
