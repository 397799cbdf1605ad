"""Child process that reads Parquet, Arrow and Zstandard files for ``app.datasets.columnar``.

``python -I arrow_child.py FILE rows MAX_ROWS`` writes a Parquet or Arrow file as JSON lines::

    stdin   (empty line)                                   the file is complete
    stdout  {"columns": [[name, type, is_plain], …]}       once
    stdin   [[name, …], [name, …]]                         the columns to read; those with parts
    stdout  {name: value, …}                               one line per row

``python -I arrow_child.py FILE zstd`` also waits for the file, and writes the decompressed content
of a Zstandard file.
If the file is rejected, the last line is the list ``[code, message, hint]``. The program sets
resource limits for itself and imports nothing from this package.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

import orjson

# Arrow and the interpreter need 470 MiB of address space before they read any data.
MEMORY_BYTES = 1536 << 20
CPU_SECONDS = 900
MAX_ROW_GROUP_BYTES = 1 << 30
MAX_RATIO = 100
FREE_BYTES = 16 << 20
ARROW_MAGIC = (b"ARROW1", b"\xff\xff\xff\xff")  # file format, stream format
BROKEN_ARCHIVE = 3
#: Modules that Arrow imports if they are there: they double the time to start, take 15 MiB, and
#: some of them reach networks.
_UNNEEDED = ("numpy", "pyarrow._azurefs", "pyarrow._gcsfs", "pyarrow._hdfs", "pyarrow._s3fs")
_BATCH_BYTES = 1 << 20
_BLOCK_BYTES = 64 << 10
_MAX_BATCH_ROWS = 1024
_HEAD_BYTES = 4 << 10
_READ_BYTES = 256 << 10


class _RefusedError(Exception):
    pass


def main() -> None:
    _limit()
    gc.disable()  # rows have no cycles
    sys.modules.update(dict.fromkeys(_UNNEEDED))  # type: ignore[arg-type]  # None: not importable
    import pyarrow.parquet  # takes longest, so before the file is complete

    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    path, mode = sys.argv[1], sys.argv[2]
    out = sys.stdout.buffer
    if not sys.stdin.readline():
        sys.exit(0)  # the parent has gone away
    try:
        for piece in _unpacked(path) if mode == "zstd" else _lines(path, int(sys.argv[3])):
            out.write(piece)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  Arrow raises many types; all mean "unreadable"
        out.flush()
        if mode == "zstd":
            sys.exit(BROKEN_ARCHIVE)
        out.write(json.dumps(_refusal(path, error)).encode() + b"\n")
    out.flush()
    os._exit(0)  # the reader waits for the end, and tearing everything down takes a while


def _refusal(path: str, error: Exception) -> tuple[str, str, str]:
    """Return the code, the message and the hint of an error."""
    if isinstance(error, _RefusedError):
        return error.args
    if isinstance(error, MemoryError):
        what = f"reading it takes more than {MEMORY_BYTES >> 20} MiB of memory"
        return "too_large", what, "write it with smaller row groups, or send JSONL"
    with open(path, "rb") as file:
        magic = file.read(6)
    kind = "Arrow" if magic in ARROW_MAGIC or magic[:4] in ARROW_MAGIC else "Parquet"
    what = f"not readable as {kind}: {str(error)[:200].rstrip('.')}"
    return f"unreadable_{kind.lower()}", what, f"send a complete {kind} file, or name the format"


def _limit() -> None:
    for name, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(name, (value, value))


def _unpacked(path: str) -> Iterator[bytes]:
    import pyarrow

    with pyarrow.CompressedInputStream(pyarrow.OSFile(path), "zstd") as stream:
        # The first piece is short, so that the beginning of a file that is cut off can be read.
        yield stream.read(_HEAD_BYTES)
        while piece := stream.read(_READ_BYTES):
            yield piece


def _lines(path: str, max_rows: int) -> Iterator[bytes]:
    batches = _batches(path, max_rows)
    schema = next(batches)
    _check_names(schema.names)
    fields = [[field.name, str(field.type)[:200], _is_plain(field.type)] for field in schema]
    yield json.dumps({"columns": fields}).encode() + b"\n"
    sys.stdout.buffer.flush()
    wanted, parts = json.loads(sys.stdin.readline())
    # The first row also has the columns that are not read, so that their names are reported.
    others: dict[str, Any] = {name: None for name in schema.names if name not in wanted}
    others |= {name: kind for name, kind, is_plain in fields if not is_plain and name in wanted}
    plain = [name for name, _, is_plain in fields if is_plain and name in wanted]
    batches.send(plain)
    for batch in batches:
        batch.validate(full=True)
        arrays = [_finite(batch.column(name), is_part=name in parts) for name in plain]
        rows = zip(*map(_values, arrays), strict=True) if plain else [()] * batch.num_rows
        encode = _encoded if any(map(_has_non_finite, arrays)) else _line
        # Appending each line at once uses the same memory for each line.
        block = bytearray()
        for values in rows:
            row = dict(zip(plain, values, strict=True))
            if others:
                row |= others
                others = {name: kind for name, kind in others.items() if kind is not None}
            block += encode(row)
            if len(block) >= _BLOCK_BYTES:
                yield bytes(block)
                block.clear()
        yield bytes(block)


def _line(row: dict[str, Any]) -> bytes:
    return orjson.dumps(row, default=float, option=orjson.OPT_APPEND_NEWLINE)  # of decimals


def _encoded(row: dict[str, Any]) -> bytes:
    """Encode a row; write non-finite floats as NaN or Infinity, for the reader to reject."""
    text = json.dumps(row, default=float, ensure_ascii=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _batches(path: str, max_rows: int) -> Any:
    """Yield the schema, receive the columns to read by ``send``, then yield record batches."""
    with open(path, "rb") as file:
        magic, size = file.read(6), file.seek(0, 2)
    if magic in ARROW_MAGIC or magic[:4] in ARROW_MAGIC:
        yield from _arrow_batches(path, is_file=magic in ARROW_MAGIC)
    else:
        yield from _parquet_batches(path, size, max_rows)


def _parquet_batches(path: str, size: int, max_rows: int) -> Any:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(
        path,
        memory_map=False,
        pre_buffer=False,
        buffer_size=1 << 20,
        thrift_string_size_limit=16 << 20,
        thrift_container_size_limit=200_000,
        arrow_extensions_enabled=False,
    ) as parquet:
        rows, total = _check_size(parquet.metadata, size, max_rows)
        columns = yield parquet.schema_arrow
        yield None
        batch_rows = max(16, min(_MAX_BATCH_ROWS, rows * _BATCH_BYTES // max(total, 1)))
        yield from parquet.iter_batches(batch_rows, columns=columns, use_threads=False)


def _arrow_batches(path: str, *, is_file: bool) -> Any:
    import pyarrow.ipc

    with pyarrow.OSFile(path) as file:
        if is_file:
            reader = pyarrow.ipc.open_file(file)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            reader = pyarrow.ipc.open_stream(file)
            batches = iter(reader)
        columns = yield reader.schema
        yield None
        for batch in batches:
            some = batch.select(columns)
            batch_rows = max(
                16, min(_MAX_BATCH_ROWS, some.num_rows * _BATCH_BYTES // max(some.nbytes, 1))
            )
            for start in range(0, some.num_rows, batch_rows):
                yield some.slice(start, batch_rows)


def _check_size(metadata: Any, size: int, max_rows: int) -> tuple[int, int]:
    """Check the row count and the sizes of a Parquet file, and return (rows, bytes)."""
    if metadata.num_rows > max_rows:
        raise _RefusedError(
            "too_many_rows",
            f"the file declares {metadata.num_rows} rows, the limit is {max_rows}",
            "split it into several datasets",
        )
    groups = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    if max(groups, default=0) > MAX_ROW_GROUP_BYTES:
        raise _RefusedError(
            "too_large",
            f"a row group holds {max(groups)} bytes, the limit is {MAX_ROW_GROUP_BYTES}",
            "write smaller row groups",
        )
    if sum(groups) > max(FREE_BYTES, MAX_RATIO * size):
        raise _RefusedError(
            "compression_ratio",
            f"the file unpacks to more than {MAX_RATIO} times its size",
            "write it without compression",
        )
    return metadata.num_rows, sum(groups)


def _check_names(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            what = f"the column {json.dumps(name)[:100]} appears twice"
            raise _RefusedError("duplicate_column", what, "keep one of them")


def _is_plain(arrow: Any) -> bool:
    """Return whether JSON can represent a type: text, numbers, and lists and objects of them."""
    from pyarrow import types

    if types.is_dictionary(arrow):
        return _is_plain(arrow.value_type)
    if types.is_list(arrow) or types.is_large_list(arrow) or types.is_fixed_size_list(arrow):
        return _is_plain(arrow.value_type)
    if types.is_struct(arrow):
        return all(_is_plain(arrow.field(i).type) for i in range(arrow.num_fields))
    tests = ("null", "boolean", "integer", "floating", "decimal", "string", "large_string")
    return any(getattr(types, f"is_{test}")(arrow) for test in (*tests, "string_view"))


def _values(array: Any) -> list[Any]:
    """Convert an array to JSON values.

    Arrow fills missing keys of objects with null, so null means that the key was absent.
    """
    values: list[Any] = array.to_pylist()
    return [_without_nulls(value) for value in values] if _has_null_keys(array) else values


def _has_null_keys(array: Any) -> bool:
    """Return whether any object inside the values has a null key."""
    from pyarrow import types

    if types.is_dictionary(array.type):
        return _has_null_keys(array.dictionary)
    if types.is_struct(array.type):
        return any(field.null_count or _has_null_keys(field) for field in array.flatten())
    return types.is_nested(array.type) and _has_null_keys(array.flatten())


def _finite(array: Any, *, is_part: bool) -> Any:
    """Return a column of numbers without NaN and infinity, which are null unless it is a part."""
    from pyarrow import compute, types

    if is_part or not types.is_floating(array.type) or types.is_float16(array.type):
        return array
    return compute.if_else(compute.is_finite(array), array, None)


def _has_non_finite(array: Any) -> bool:
    """Return whether any number in the values, at any depth, is NaN or infinite."""
    from pyarrow import types

    if types.is_floating(array.type):
        return any(value is not None and not math.isfinite(value) for value in array.to_pylist())
    if types.is_dictionary(array.type):
        return _has_non_finite(array.dictionary)
    if types.is_struct(array.type):
        return any(map(_has_non_finite, array.flatten()))
    return types.is_nested(array.type) and _has_non_finite(array.flatten())


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


if __name__ == "__main__":
    main()
