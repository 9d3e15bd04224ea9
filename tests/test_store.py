"""The store of a run: what was committed survives kills and full disks, and two runs never mix."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import thalweg.store as store_module
from thalweg.errors import RunFolderError
from thalweg.journal import Entry
from thalweg.store import APPLICATION, DATABASE, PROGRESS, SCHEMA, Record, Store


def record(identity: int, energy: float, n: int = 5, **other) -> Record:
    rng = np.random.default_rng(identity)
    cell = rng.normal(size=(3, 3))
    return Record(identity, energy, rng.normal(size=(n, 3)), rng.integers(0, 90, n).astype(np.int32), cell, **other)


def assert_equal(a: Record, b: Record) -> None:
    for name in Record.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def message(excinfo) -> str:
    """The error's text, which must be one line."""
    text = str(excinfo.value)
    assert "\n" not in text
    return text


def test_everything_comes_back_bit_for_bit(tmp_path):
    first = record(3, -1.25, pbc=(True, False, True), hits=7, independent_hits=2, origin="twist", walker=4, run=9, seconds=0.5)
    second = record(1, -0.1 - 0.2, evaluations=2**40)
    checkpoint = os.urandom(100_000)
    with Store.create(tmp_path / "run", {"name": "LJ38", "seed": 7, "path": Path("a"), "size": np.int64(3)}) as store:
        store.commit(
            [second, first],
            {"elapsed": 1.5, "evaluations": np.int64(100), "best": -1.25, "note": "x"},
            checkpoint,
            [{"name": "twist", "trials": np.float32(2)}, {"name": "a", "trials": 1}],
        )
    with Store.open(tmp_path / "run") as store:
        assert {"name": "LJ38", "seed": 7, "path": "a", "size": 3}.items() <= store.meta.items()
        got = store.minima()
        assert [r.id for r in got] == [3, 1]  # by energy
        assert_equal(got[0], first)
        assert_equal(got[1], second)
        assert_equal(store.best(), first)
        assert [r.id for r in store.minima(limit=1)] == [3]
        assert store.n_minima == 2
        expected = dict.fromkeys(PROGRESS) | {"elapsed": 1.5, "evaluations": 100, "best": -1.25, "note": "x"}
        assert store.progress() == [expected]
        assert store.moves() == [{"name": "twist", "trials": 2.0}, {"name": "a", "trials": 1}]
        assert store.checkpoint() == checkpoint


def test_commits_update_hits_drop_minima_and_replace_the_checkpoint(tmp_path):
    with Store.create(tmp_path, {"name": "LJ38"}) as store:
        assert store.best() is None
        assert store.checkpoint() is None
        store.commit([record(0, -1.0), record(1, -0.5)], {"elapsed": 1}, b"one", [{"name": "a", "trials": 1}])
        store.commit([record(0, -1.0, hits=5, independent_hits=3)], {"elapsed": 2}, b"two", [{"name": "a", "trials": 2}], [1])
        store.commit(meta={"status": "stopped"})
        assert [(r.id, r.hits, r.independent_hits) for r in store.minima()] == [(0, 5, 3)]
        assert [row["elapsed"] for row in store.progress()] == [1, 2]
        assert store.checkpoint() == b"two"
        assert store.moves() == [{"name": "a", "trials": 2}]
        assert store.meta["status"] == "stopped"


def test_a_second_run_does_not_enter_the_folder(tmp_path):
    with Store.create(tmp_path / "run", {"name": "LJ38"}) as store:
        store.commit([record(0, -1.0)])
        for _ in range(2):  # while it runs, and after
            with pytest.raises(RunFolderError, match="already holds a run of LJ38; resume it with `thalweg resume") as caught:
                Store.create(tmp_path / "run", {"name": "Au55"})
            message(caught)
        with pytest.raises(RunFolderError, match=f"another process {os.getpid()} is running"):
            Store.open(tmp_path / "run", write=True)
    with pytest.raises(RunFolderError, match="already holds a run of LJ38"):
        Store.create(tmp_path / "run", {"name": "Au55"})
    with Store.open(tmp_path / "run") as store:
        assert store.meta["name"] == "LJ38"
        assert store.n_minima == 1


def test_of_many_processes_that_start_in_one_folder_exactly_one_wins(tmp_path):
    script = textwrap.dedent("""
        import sys, time
        from thalweg.errors import RunFolderError
        from thalweg.store import Store
        time.sleep(max(0, float(sys.argv[3]) - time.time()))
        try:
            store = Store.create(sys.argv[1], {"name": sys.argv[2]})
        except RunFolderError as error:
            print("refused", error)
        else:
            store.commit(meta={"mine": sys.argv[2]})
            print("won")
            time.sleep(0.5)
    """)
    start = str(time.time() + 1.0)
    arguments = [[sys.executable, "-c", script, str(tmp_path / "run"), f"run{k}", start] for k in range(5)]
    processes = [subprocess.Popen(a, stdout=subprocess.PIPE, text=True) for a in arguments]
    said = [p.communicate(timeout=60)[0] for p in processes]
    winners = [k for k, text in enumerate(said) if text == "won\n"]
    assert len(winners) == 1, said
    assert all(text.startswith("refused") for k, text in enumerate(said) if k not in winners)
    with Store.open(tmp_path / "run") as store:
        assert store.meta["name"] == store.meta["mine"] == f"run{winners[0]}"


def test_a_reader_sees_commits_while_the_run_writes_and_cannot_write(tmp_path):
    with Store.create(tmp_path, {"name": "LJ38"}) as writer, Store.open(tmp_path) as reader:
        assert reader.best() is None
        writer.commit([record(0, -1.0)])
        assert reader.best().energy == -1.0
        with pytest.raises(RunFolderError, match="opened to read"):
            reader.commit([record(1, -2.0)])
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._connection.execute("DELETE FROM minima")


WRITER = """
import sys, time
import numpy as np
from thalweg.store import Record, Store
folder = sys.argv[1]
try:
    store, step = Store.create(folder, {"name": "LJ38"}), 0
except Exception:
    store = Store.open(folder, write=True)
    saved = store.checkpoint()
    step = 0 if saved is None else int(saved.split()[0])
print("ready", flush=True)
while True:
    step += 1
    minimum = Record(step, -float(step), np.full((38, 3), float(step)), np.zeros(38, int), np.zeros((3, 3)))
    store.commit([minimum], {"elapsed": step, "best": -step}, str(step).encode() + b" " * 50_000)
    print(step, flush=True)
"""


def test_a_killed_run_keeps_its_last_commit_and_goes_on_at_once(tmp_path):
    rng = np.random.default_rng(0)
    reached = 0
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        announced = reached
        for _ in range(int(rng.integers(0, 4))):
            announced = int(process.stdout.readline())
        time.sleep(float(rng.uniform(0, 0.02)))
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read().split("\n")
        process.wait()
        announced = max([announced] + [int(line) for line in rest[:-1]])
        with Store.open(tmp_path) as store:
            saved = int((store.checkpoint() or b"0").split()[0])
            # A commit that was announced is there; at most the one under way may be there too.
            assert announced <= saved <= announced + 1
            # Rows and checkpoint are of the same commit, and none before it is missing.
            assert [r.id for r in store.minima()] == list(range(saved, 0, -1))
            assert [row["elapsed"] for row in store.progress()] == list(range(1, saved + 1))
            assert store._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        reached = saved
    assert reached > 3


def test_a_run_killed_while_it_was_created_leaves_the_folder_free(tmp_path):
    # As after a kill between making the file and committing the tables.
    connection = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    (tmp_path / "run.lock").touch()
    with pytest.raises(RunFolderError, match="never began"):
        Store.open(tmp_path)
    with Store.create(tmp_path, {"name": "LJ38"}) as store:
        assert store.meta["name"] == "LJ38"


def test_a_full_disk_is_one_line_and_loses_no_commit(tmp_path):
    with Store.create(tmp_path, {"name": "LJ38"}) as store:
        store.commit([record(0, -1.0)], {"elapsed": 1}, b"good")
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(RunFolderError, match=r"no space is left.*thalweg resume") as caught:
            store.commit([record(k, -2.0, n=200) for k in range(1, 50)], {"elapsed": 2}, bytes(10**6))
        message(caught)
        # The store is usable again once there is space.
        store._connection.execute("PRAGMA max_page_count = 1000000")
        assert [r.id for r in store.minima()] == [0]
        assert store.checkpoint() == b"good"
        store.commit([record(1, -2.0)], {"elapsed": 3}, b"better")
    with Store.open(tmp_path, write=True) as store:
        assert [r.id for r in store.minima()] == [1, 0]
        assert [row["elapsed"] for row in store.progress()] == [1, 3]
        assert store.checkpoint() == b"better"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "no space is left"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.EIO, "cannot be used"),
    ],
)
def test_what_the_system_says_of_the_folder_is_one_line(tmp_path, monkeypatch, code, said):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunFolderError, match=said) as caught:
        Store.create(tmp_path / "run", {})
    assert str(tmp_path / "run") in message(caught)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("database or disk is full", "no space is left"),
        ("attempt to write a readonly database", "cannot be written"),
        ("disk I/O error", "disk I/O error"),
    ],
)
def test_what_sqlite_says_is_one_line(tmp_path, monkeypatch, text, said):
    def fail(*_):
        raise sqlite3.OperationalError(text)

    with Store.create(tmp_path, {"name": "LJ38"}) as store:
        store.commit([record(0, -1.0)])
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "_write_progress", fail)
            with pytest.raises(RunFolderError, match=said) as caught:
                store.commit([record(1, -2.0)], {"elapsed": 1})
            message(caught)
        assert [r.id for r in store.minima()] == [0]


READ_ONLY = """
import os, sys
from thalweg.errors import RunFolderError
from thalweg.journal import Entry
from thalweg.store import Store
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
print(Store.open(sys.argv[1] + "/run").meta["name"])
for act in (
    lambda: Store.create(sys.argv[1] + "/other", {}),
    lambda: Store.open(sys.argv[1] + "/run", write=True),
):
    try:
        act()
    except RunFolderError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of this kind are POSIX")
def test_a_read_only_folder_is_refused_but_its_run_can_be_read():
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other users
        folder = Path(name)
        Store.create(folder / "run", {"name": "LJ38"}).close()
        for path in (folder, folder / "run"):
            path.chmod(0o555)
        out = subprocess.run([sys.executable, "-c", READ_ONLY, name], capture_output=True, text=True, check=True)
        for path in (folder, folder / "run"):
            path.chmod(0o755)
    lines = out.stdout.splitlines()
    assert lines[0] == "LJ38"
    assert [f"{folder / which} cannot be written" in line for which, line in zip(("other", "run"), lines[1:], strict=True)] == [
        True
    ] * 2


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFolderError, match="is a file, not a folder"):
        Store.create(tmp_path / "file", {})
    with pytest.raises(RunFolderError, match="cannot be used"):
        Store.create(tmp_path / "file" / "run", {})


def test_databases_that_are_not_ours_are_left_alone(tmp_path):
    with pytest.raises(RunFolderError, match="holds no run"):
        Store.open(tmp_path)
    (tmp_path / DATABASE).write_bytes(b"not a database" * 100)
    for act in (lambda: Store.open(tmp_path), lambda: Store.create(tmp_path, {})):
        with pytest.raises(RunFolderError, match="not the database of a thalweg run"):
            act()
    assert (tmp_path / DATABASE).read_bytes() == b"not a database" * 100
    (tmp_path / DATABASE).unlink()
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(RunFolderError, match="not the database of a thalweg run"):
        Store.create(tmp_path, {})


def test_a_newer_schema_and_a_foreign_checkpoint_are_one_clear_line(tmp_path):
    with Store.create(tmp_path, {"name": "LJ38"}) as store:
        store.commit(checkpoint=b"bytes")
        assert store._connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION
        store._connection.execute("UPDATE checkpoint SET data = ?", (b"other",))
        with pytest.raises(RunFolderError, match="damaged"):
            store.checkpoint()
        store._connection.execute("UPDATE checkpoint SET version = 99")
        with pytest.raises(RunFolderError, match="format 99") as caught:
            store.checkpoint()
        message(caught)
        store._connection.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    for act in (lambda: Store.open(tmp_path), lambda: Store.open(tmp_path, write=True), lambda: Store.create(tmp_path, {})):
        with pytest.raises(RunFolderError, match=r"newer thalweg.*upgrade") as caught:
            act()
        message(caught)


def test_importing_the_store_is_light():
    code = "import sys, thalweg.store, json; print(json.dumps([m for m in ('jax', 'ase', 'scipy') if m in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == []


def test_fixed_atoms_are_kept_and_runs_of_the_first_tables_are_read_and_resumed(tmp_path):
    held = record(1, -2.0, fixed=np.array([True, False, False, True, False]))
    with Store.create(tmp_path, {"name": "slab"}) as store:
        store.commit([record(0, -1.0), held], checkpoint=b"x")
    with Store.open(tmp_path) as store:
        assert_equal(store.minima()[0], held)
        assert store.minima()[1].fixed is None
    # As the first version wrote it: without the column, and without the table of evaluations.
    connection = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    connection.execute("DROP TABLE evaluations")
    connection.execute("ALTER TABLE minima DROP COLUMN fixed")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    with Store.open(tmp_path) as store:
        assert [(r.id, r.energy, r.fixed) for r in store.minima()] == [(1, -2.0, None), (0, -1.0, None)]
        assert store.evaluations() == []
    with Store.open(tmp_path, write=True) as store:
        store.commit([held])
        assert_equal(store.best(), held)
        assert store.minima()[1].fixed is None
        assert store._connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA


def test_notes_are_kept_and_runs_of_tables_without_them_are_read_and_resumed(tmp_path):
    rng = np.random.default_rng(4)
    plain = Entry(0, 0, 0, "random", np.inf, rng.normal(size=(5, 3)), np.zeros((3, 3)))
    noted = Entry(1, 0, 0, "random", -1.0, rng.normal(size=(5, 3)), np.zeros((3, 3)), notes=rng.normal(size=7))
    with Store.create(tmp_path, {"name": "slab"}) as store:
        store.commit(evaluations=[plain, noted])
        assert store.evaluations()[0].notes is None
        np.testing.assert_array_equal(store.evaluations()[1].notes, noted.notes)
    connection = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    connection.execute("ALTER TABLE evaluations DROP COLUMN notes")
    connection.execute("PRAGMA user_version = 3")
    connection.close()
    with Store.open(tmp_path) as store:
        assert [e.notes for e in store.evaluations()] == [None, None]
    with Store.open(tmp_path, write=True) as store:
        store.commit(evaluations=[noted])
        before, after = store.evaluations()
        assert before.notes is None
        for name in Entry.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(after, name), getattr(noted, name), err_msg=name)
