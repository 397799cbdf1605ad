"""A program: ``python -I parquet_child.py FILE MAX_ROWS`` prints a Parquet file as JSON lines.

Run by ``app.datasets.parquet``, alone and under limits; imports nothing of this package. A line is
a row (an object); or, last, a refusal: the list ``[code, message, hint]``.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

# Arrow and the interpreter take 470 MiB of address space before they read anything.
MEMORY_BYTES = 1536 << 20
CPU_SECONDS = 900
MAX_ROW_GROUP_BYTES = 1 << 30
MAX_RATIO = 100
FREE_BYTES = 16 << 20
_BATCH_ROWS = 64
_COLUMNS = ("prompt", "chosen", "rejected", "margin", "slice", "tools", "chat_template_kwargs")


class _Refusal(Exception):
    pass


def main() -> None:
    _limit()
    path, max_rows = sys.argv[1], int(sys.argv[2])
    out = sys.stdout.buffer
    try:
        for lines in _lines(path, max_rows):
            out.write(lines)
    except _Refusal as refusal:
        out.write(json.dumps(refusal.args).encode() + b"\n")
    except MemoryError:
        what = f"reading it takes more than {MEMORY_BYTES >> 20} MiB of memory"
        out.write(_said("too_large", what, "write it with smaller row groups, or send JSONL"))
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  Arrow raises many kinds; all say "unreadable"
        what = f"not readable as Parquet: {str(error)[:200].rstrip('.')}"
        out.write(_said("unreadable_parquet", what, "send a whole Parquet file, or say the format"))
    out.flush()


def _limit() -> None:
    for name, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(name, (value, value))


def _said(code: str, message: str, hint: str) -> bytes:
    return json.dumps([code, message, hint]).encode() + b"\n"


def _lines(path: str, max_rows: int) -> Iterator[bytes]:
    import pyarrow
    import pyarrow.parquet
    from pydantic_core import to_json  # five times as fast as json, and writes the same

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
    with pyarrow.parquet.ParquetFile(
        path,
        memory_map=False,
        pre_buffer=False,
        buffer_size=1 << 20,
        thrift_string_size_limit=16 << 20,
        thrift_container_size_limit=200_000,
        arrow_extensions_enabled=False,
    ) as parquet:
        _check_size(parquet.metadata, size, max_rows)
        schema = parquet.schema_arrow
        _check_columns(schema)
        columns = [name for name in _COLUMNS if name in schema.names]
        others: dict[str, Any] = {name: None for name in schema.names if name not in columns}
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
            batch.validate(full=True)
            for row in batch.to_pylist():
                if isinstance(row.get("margin"), Decimal):
                    row["margin"] = float(row["margin"])
                # Names of columns that are not read go along once, to be reported as ignored.
                yield to_json(row | others, inf_nan_mode="constants") + b"\n"
                others = {}


def _check_size(metadata: Any, size: int, max_rows: int) -> None:
    if metadata.num_rows > max_rows:
        raise _Refusal(
            "too_many_rows",
            f"the file says {metadata.num_rows} rows, the limit is {max_rows}",
            "split it into several datasets",
        )
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    if max(groups, default=0) > MAX_ROW_GROUP_BYTES:
        raise _Refusal(
            "too_large",
            f"a row group holds {max(groups)} bytes, the limit is {MAX_ROW_GROUP_BYTES}",
            "write smaller row groups",
        )
    if sum(groups) > max(FREE_BYTES, MAX_RATIO * size):
        raise _Refusal(
            "compression_ratio",
            f"the file unpacks to more than {MAX_RATIO} times its size",
            "write it without compression",
        )


def _check_columns(schema: Any) -> None:
    names = schema.names
    found = ", ".join(json.dumps(name) for name in names[:10])[:500]
    for name in ("chosen", "rejected"):
        if name not in names:
            raise _Refusal(
                "missing_column",
                f"the file has no column {name} (it has: {found or 'none'})",
                "name the columns prompt, chosen, rejected",
            )
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise _Refusal(
                "duplicate_column", f"the column {name} is there twice", "keep one of them"
            )
        if name in names and not _is_plain(schema.field(name).type):
            raise _Refusal(
                "unsupported_type",
                f"the column {name} is of the Arrow type {str(schema.field(name).type)[:200]}",
                "give strings, lists of {role, content} structs, and numbers",
            )


def _is_plain(arrow: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(arrow):
        return _is_plain(arrow.value_type)
    if types.is_list(arrow) or types.is_large_list(arrow) or types.is_fixed_size_list(arrow):
        return _is_plain(arrow.value_type)
    if types.is_struct(arrow):
        return all(_is_plain(arrow.field(i).type) for i in range(arrow.num_fields))
    tests = ("null", "boolean", "integer", "floating", "decimal", "string", "large_string")
    return any(getattr(types, f"is_{test}")(arrow) for test in (*tests, "string_view"))


if __name__ == "__main__":
    main()
