"""Rows of many runs as one frame: read by Arrow, texts as codes from the file to the frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medsam2.results.collect.texts import count

KEYS = ("case_id", "structure")
NEEDED = {
    "test": ("case_id", "patient_id", "structure", "budget"),
    "zero_shot": ("case_id", "patient_id", "structure", "budget"),
    "budget": ("case_id", "patient_id", "structure", "axis", "level"),
    "test_bins": ("structure", "bin", "number", "expected", "actual"),
}  # by the name of the file
TEXTS = {
    *("phase", "protocol", "convention", "case_id", "patient_id", "structure"),
    *("prompt", "budget", "size_unit", "axis"),
}
TEXT = pa.dictionary(pa.int32(), pa.string())
THREADS = 4
ABSENT = "rows/{}.parquet is not there"


class NoRows(ValueError):
    """A file of rows that is not there, or cannot be used; the message says which and why."""


def read_files(folders: Mapping[str, Path], name: str) -> tuple[dict[str, pa.Table], dict[str, str]]:
    """rows/NAME.parquet of all runs, and of those that have none that can be used, why; by the key of the folder."""

    def read(folder: Path) -> pa.Table | str:
        try:
            return read_table(folder / "rows" / f"{name}.parquet", NEEDED[name])
        except NoRows as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        answers = dict(zip(folders, pool.map(read, folders.values()), strict=True))
    tables = {run_id: answer for run_id, answer in answers.items() if not isinstance(answer, str)}
    return tables, {run_id: answer for run_id, answer in answers.items() if isinstance(answer, str)}


def read_table(file: Path, needed: Sequence[str]) -> pa.Table:
    """One file, texts as dictionaries and all else as float64.

    Raises:
        NoRows: it is not there, is no parquet file, has no rows, lacks a column or a key, or a value is infinite.
    """
    where = f"rows/{file.name}"
    if not file.is_file():
        raise NoRows(ABSENT.format(file.stem))
    try:
        table = _cast(_read(file))
    except (OSError, pa.ArrowException) as error:
        raise NoRows(f"{where} cannot be read: {str(error).splitlines()[0]}") from error
    lacking = [column for column in needed if column not in table.column_names]
    if lacking:
        raise NoRows(f"{where} lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}")
    if not table.num_rows:
        raise NoRows(f"{where} has no rows")
    for column in {*KEYS, "patient_id"} & set(needed):
        if table[column].null_count:
            raise NoRows(f"{where} has rows without {column}")
    _check_finite(table, where)
    return table


def _check_finite(table: pa.Table, where: str) -> None:
    """No value is infinite, a budget's last level excepted: one would make every mean that it is in meaningless."""
    for column in table.column_names:
        if column in TEXTS or column == "level":
            continue
        if number := pc.sum(pc.is_inf(table[column])).as_py():
            raise NoRows(f"{where}: {column} is infinite in {count(number, 'row')} of {table.num_rows}")


def _read(file: Path) -> pa.Table:
    """All of a file; texts as the codes that the file has for them."""
    content = pa.py_buffer(file.read_bytes())
    about = pq.read_metadata(pa.BufferReader(content))
    texts = [name for name in about.schema.names if name in TEXTS]
    reader = pq.ParquetFile(pa.BufferReader(content), metadata=about, read_dictionary=texts, pre_buffer=False)
    return reader.read(use_threads=False)


def _cast(table: pa.Table) -> pa.Table:
    names = table.column_names
    return pa.table({n: _encode(table[n]) if n in TEXTS else table[n].cast(pa.float64()) for n in names})


def _encode(column: pa.ChunkedArray) -> pa.ChunkedArray:
    coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column.cast(pa.string()))
    return coded.cast(TEXT)


def join(tables: dict[str, pa.Table], name: str) -> pd.DataFrame:
    """The rows of all runs below each other, after a first column run_id; a column that a run lacks is NaN there.

    The tables are used up, so that nothing is in memory twice.
    """
    if not tables:
        return empty(name)
    ids = pa.array(list(tables), pa.string())
    marked = []
    for i, run_id in enumerate(list(tables)):
        table = tables.pop(run_id)
        runs = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(i, pa.int32()), table.num_rows), ids)
        marked.append(table.add_column(0, "run_id", runs))
    joined = pa.concat_tables(marked, promote_options="permissive").unify_dictionaries()
    del table, marked
    return joined.to_pandas(split_blocks=True, self_destruct=True)


def empty(name: str) -> pd.DataFrame:
    """No rows, with the columns that there would be."""
    columns = dict.fromkeys(("run_id", *NEEDED[name]))
    numbers = {"level", "bin", "number", "expected", "actual"}
    return pd.DataFrame({c: pd.Series(dtype=float if c in numbers else "category") for c in columns})


def repeated_keys(cases: pd.DataFrame) -> dict[str, str]:
    """Of runs that have two rows for one case and structure, which."""
    again = cases[cases.duplicated(["run_id", *KEYS])]
    found = {}
    for run_id, rows in again.groupby("run_id", observed=True):
        case, structure = rows.iloc[0][list(KEYS)]
        found[f"{run_id}"] = f"rows/test.parquet has rows twice ({len(rows)}), as of {case}, {structure}"
    return found
