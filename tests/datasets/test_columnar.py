"""Parquet and Arrow files, parsed in a child process that may run out of memory or be killed."""

import contextlib
import json
import struct
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from app.datasets import arrow_child, columnar
from app.datasets.reading import DatasetReader, ReadLimits
from app.datasets.row_errors import InvalidDatasetError, RowProblem
from app.datasets.spooling import SpooledFile


def write(path: Path, table: pyarrow.Table | list[dict[str, Any]], **options: Any) -> Path:
    table = pyarrow.Table.from_pylist(table) if isinstance(table, list) else table
    pyarrow.parquet.write_table(table, path, **options)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    blocks = b"".join(DatasetReader().read_columnar(SpooledFile(path)))
    return [json.loads(line) for line in blocks.split(b"\n")[:-1]]


def problem(path: Path, limits: ReadLimits | None = None) -> RowProblem:
    with pytest.raises(InvalidDatasetError) as caught:
        list(DatasetReader(limits).read_columnar(SpooledFile(path)))
    return caught.value.rows[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs.parquet"


def test_messages_margins_and_labels_are_read_in_order(path: Path) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"q{n}", "tool_calls": None}],
            "chosen": [{"role": "assistant", "content": "good"}],
            "rejected": [{"role": "assistant", "content": "bad"}],
            "margin": Decimal(n) / 2,
            "when": b"\xff",
        }
        for n in range(200)
    ]
    write(path, rows, row_group_size=70)
    reader = DatasetReader()
    lines = b"".join(reader.read_columnar(SpooledFile(path))).splitlines()
    assert [json.loads(line)["margin"] for line in lines] == [n / 2 for n in range(200)]
    assert json.loads(lines[3])["prompt"] == [{"role": "user", "content": "q3"}]
    assert json.loads(lines[3])["line"] == 4
    assert reader.summary.ignored_columns == ["when"]


def test_dictionary_and_large_strings_are_text(path: Path) -> None:
    table = pyarrow.table(
        {
            "chosen": pyarrow.array(["a", "a"]).dictionary_encode(),
            "rejected": pyarrow.array(["b", "c"], pyarrow.large_string()),
        }
    )
    assert [pair["rejected"] for pair in read(write(path, table))] == ["b", "c"]


@pytest.mark.parametrize(
    ("table", "code", "says"),
    [
        ({"chosen": ["a"]}, "missing_column", '"chosen"'),
        ({"chosen": [b"a"], "rejected": ["b"]}, "unsupported_type", "binary"),
        ({"chosen": [[{"role": b"a"}]], "rejected": ["b"]}, "unsupported_type", "struct"),
        ({"chosen": [1], "rejected": ["b"]}, "wrong_type", "a number"),
        ({"chosen": ["a"], "rejected": [None]}, "missing_column", "rejected is null"),
        (
            {"chosen": ["a"], "rejected": ["b"], "margin": [float("nan")]},
            "non_finite_number",
            "NaN",
        ),
        ({"chosen": ["a"], "rejected": ["b"], "margin": [True]}, "invalid_margin", "True"),
        ({"chosen": ["a" * (1 << 20)], "rejected": ["b"]}, "line_too_long", "1048576"),
        ({"chosen": [], "rejected": []}, "empty_dataset", "no rows"),
    ],
)
def test_unusable_columns_and_rows_are_told(
    path: Path, table: dict[str, Any], code: str, says: str
) -> None:
    found = problem(write(path, pyarrow.table(table)))
    assert (found.code, found.line) == (code, 1)
    assert says in found.message


@pytest.mark.parametrize(
    ("more", "column"),
    [
        ({"meta": {"loss": [1.0, float("nan")]}}, "meta.loss[1]"),
        ({"meta": [{"loss": float("inf")}]}, "meta[0].loss"),
        ({"margin": float("nan")}, "margin"),
    ],
)
def test_number_that_json_lacks_is_refused_at_any_depth(
    path: Path, more: dict[str, Any], column: str
) -> None:
    rows = [{"chosen": "a", "rejected": "b"}, {"chosen": "a", "rejected": "b"} | more]
    write(path, pyarrow.Table.from_pylist([dict.fromkeys(more) | row for row in rows]))
    found = problem(path)
    assert (found.code, found.column, found.line) == ("non_finite_number", column, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_number_that_json_lacks_is_null_in_a_column_of_no_part(path: Path, value: float) -> None:
    rows = [{"chosen": "a", "rejected": "b", "loss": loss} for loss in (0.5, value)]
    assert len(read(write(path, pyarrow.Table.from_pylist(rows)))) == 2


def test_decimals_are_numbers_at_any_depth(path: Path) -> None:
    row = {"prompt": "p", "responses": ["bad", "good"], "scores": [Decimal("0.5"), Decimal("1.5")]}
    (stored,) = read(write(path, [row]))
    assert [each["score"] for each in stored["replies"]] == [1.5, 0.5]


def test_bad_row_is_told_with_its_number(path: Path) -> None:
    rows = [{"chosen": "a", "rejected": "a" if n == 150 else "b"} for n in range(300)]
    found = problem(write(path, rows))
    assert (found.line, found.code, found.column) == (151, "identical_pair", "rejected")


def test_text_that_is_not_utf8_is_refused(path: Path) -> None:
    raw = pyarrow.array([b"\xff\xfe"]).view(pyarrow.string())
    found = problem(write(path, pyarrow.table({"chosen": raw, "rejected": ["b"]})))
    assert found.code == "unreadable_parquet"
    assert "UTF8" in found.message


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 9, b"no table at all"])
def test_what_is_no_parquet_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    found = problem(path)
    assert found.code == "unreadable_parquet"
    assert ".;" not in found.sentence()


def test_damaged_files_are_read_or_refused(path: Path) -> None:
    write(path, [{"chosen": f"a{n}", "rejected": "b"} for n in range(50)])
    whole = path.read_bytes()
    for at in range(0, len(whole), len(whole) // 12):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(InvalidDatasetError):
            assert len(read(path)) <= 50


def test_too_many_rows_are_refused_unread(path: Path) -> None:
    write(path, [{"chosen": "a", "rejected": "b"}] * 20)
    found = problem(path, ReadLimits(max_rows=19))
    assert (found.code, found.line) == ("too_many_rows", 1)


def test_more_bytes_than_allowed_are_refused(path: Path) -> None:
    write(path, [{"chosen": "a" * 1000, "rejected": "b"}] * 20)
    assert problem(path, ReadLimits(max_bytes=5000)).code == "too_large"


def test_compression_bomb_is_refused(path: Path) -> None:
    """One text, stored once in the file's dictionary, represents 20 GB of rows."""
    text = pyarrow.array(["a" * 100_000]).dictionary_encode()
    chosen = pyarrow.DictionaryArray.from_arrays([0] * 200_000, text.dictionary)
    table = pyarrow.table({"chosen": chosen, "rejected": ["b"] * 200_000})
    write(path, table, compression="zstd")
    assert path.stat().st_size < 10_000
    assert problem(path).code == "compression_ratio"


def test_small_file_that_asks_for_two_gigabytes_is_refused(path: Path) -> None:
    path.write_bytes(_allocation_bomb(path))
    assert path.stat().st_size < 500
    found = problem(path)
    assert found.code == "too_large"
    assert "1536 MiB of memory" in found.message


def test_child_that_dies_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = path.with_suffix(".py")
    row = {"chosen": "a", "rejected": "b"}
    program.write_text(
        "import json, os\n"
        "print(json.dumps({'columns': []}), flush=True)\n"
        f"print(json.dumps({row}), flush=True)\n"
        "os.kill(os.getpid(), 11)\n"
    )
    monkeypatch.setattr(arrow_child, "__file__", str(program))
    path.write_bytes(b"")
    with pytest.raises(InvalidDatasetError) as caught:
        list(DatasetReader().read_columnar(SpooledFile(path)))
    assert [row.code for row in caught.value.rows] == ["unreadable_parquet"]
    assert "status -11" in caught.value.rows[0].message


def test_child_that_hangs_is_killed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = path.with_suffix(".py")
    program.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(arrow_child, "__file__", str(program))
    monkeypatch.setattr(columnar, "STALL_SECONDS", 0.5)
    path.write_bytes(b"")
    assert "wrote nothing for" in problem(path).message


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """List of the processes that the test starts."""
    processes: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Noted)
    return processes


def test_child_starts_while_the_file_is_received(
    path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    def receive() -> None:
        assert started[0].poll() is None
        write(path, [{"chosen": "a", "rejected": "b"}])

    path.write_bytes(b"")
    data = b"".join(DatasetReader().read_columnar(SpooledFile(path, receive)))
    assert json.loads(data)["chosen"] == "a"


def test_child_ends_when_the_file_is_not_received(
    path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    def receive() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        list(DatasetReader().read_columnar(SpooledFile(path, receive)))
    assert started[0].poll() is not None


def test_child_ends_when_the_reader_goes_away(
    path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    write(path, [{"chosen": f"a{n}" * 300, "rejected": "b"} for n in range(9_000)])
    blocks = DatasetReader().read_columnar(SpooledFile(path))
    next(blocks)
    assert started[0].poll() is None
    blocks.close()
    assert started[0].poll() is not None


def test_child_sees_no_secrets(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAUDIT_DATABASE_URL", "postgresql://secret")
    program = path.with_suffix(".py")
    program.write_text(
        "import json, os\n"
        "print(json.dumps(['unreadable_parquet', ' '.join(sorted(os.environ)), '-']))\n"
    )
    monkeypatch.setattr(arrow_child, "__file__", str(program))
    path.write_bytes(b"")
    assert "PLAUDIT" not in problem(path).message


def test_child_can_write_no_file(path: Path) -> None:
    program = "import sys; from app.datasets.arrow_child import _limit; _limit(); "
    program += "open(sys.argv[1], 'wb', buffering=0).write(b'x')"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=False, text=True
    )
    assert "File too large" in done.stderr
    assert path.read_bytes() == b""


def _allocation_bomb(path: Path) -> bytes:
    """Return a file of about 400 bytes whose first page claims to unpack to 2 GiB."""
    write(
        path,
        pyarrow.table({"chosen": ["a" * 2_000_000], "rejected": ["b"]}),
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        store_schema=False,
    )
    raw = path.read_bytes()
    size = pyarrow.parquet.read_metadata(path).row_group(0).column(0).total_compressed_size
    footer_size = struct.unpack("<I", raw[-8:-4])[0]
    body, footer = raw[: -8 - footer_size], raw[-8 - footer_size : -8]
    start = body.index(b"\x15", 6) + 1  # thrift: the page header's second i32 field
    end = start
    while body[end] & 0x80:
        end += 1
    claim = _varint(2**31 - 1)
    grown = len(claim) - (end + 1 - start)
    body = body[:start] + claim + body[end + 1 :]
    footer = footer.replace(b"\x16" + _varint(size), b"\x16" + _varint(size + grown), 1)
    return body + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _varint(number: int) -> bytes:
    number, out = number << 1, b""  # zigzag
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])
