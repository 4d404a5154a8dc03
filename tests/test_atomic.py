"""Nothing half written: full disks, read-only folders, two runs at once, kills while writing."""

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys

from common.storage.atomic import atomic_write, exclusive_lock

import pytest
from conftest import ROOT, error_of, run, run_well


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a separate file system of 4 MB, in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a file system on Linux")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write(*paths, text="new"):
    with atomic_write(*paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text(text)


def contents(folder):
    """The files of a folder that a user sees, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_full_disk_leaves_every_artifact_as_it_was(synthetic_run, small_disk):
    made, _ = synthetic_run
    (small_disk / "q1_data.pt").symlink_to(made / "q1_data.pt")
    for name in ("q2_fcn.pt", "q2_fcn.json", "q2_fcn.png"):
        (small_disk / name).write_bytes((made / name).read_bytes())
    before = contents(small_disk)
    error = error_of(run("q2_fcn.py", "--epochs", 3, "--out", small_disk))  # its Adam's moments are too much
    assert f"error: {small_disk}: No space left on device: q2_fcn.resume.pt cannot be written" in error
    assert contents(small_disk) == before
    with pytest.raises(OSError, match=r"No space left on device: q2_fcn.png, q2_fcn.json cannot be written"):
        write(small_disk / "q2_fcn.png", small_disk / "q2_fcn.json", text="x" * 5_000_000)
    assert contents(small_disk) == before
    assert not list(small_disk.glob(".*.tmp"))


def test_a_read_only_folder_is_found_before_the_training(synthetic_run, small_disk):
    made, _ = synthetic_run
    (small_disk / "q1_data.pt").symlink_to(made / "q1_data.pt")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for script in ("q1_data.py", "q3_cnn.py", "q4_confusion.py"):
        done = run(script, "--out", small_disk)
        assert error_of(done) == f"error: {small_disk}: Read-only file system"
        assert "epoch" not in done.stdout


def test_of_two_runs_at_once_the_second_is_refused(synthetic_run, tmp_path):
    (tmp_path / "q1_data.pt").symlink_to(synthetic_run[0] / "q1_data.pt")
    command = ("q2_fcn.py", "--epochs", 1, "--out", tmp_path)
    with exclusive_lock(tmp_path, "q2_fcn"), exclusive_lock(tmp_path, "q3_cnn"):
        assert f"{tmp_path}: another run is writing q2_fcn there" in error_of(run(*command))
    run_well(*command)


def test_a_kill_while_writing_leaves_the_old_files_and_the_next_run_clears_up(tmp_path):
    for name in ("a.json", "a.png"):
        (tmp_path / name).write_text("old")
    code = (
        "import os, signal, sys; from common.storage.atomic import atomic_write\n"
        f"with atomic_write('{tmp_path}/a.png', '{tmp_path}/a.json') as names:\n"
        "    names[0].write_text('new'); names[1].write_text('ne'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(tmp_path) == {"a.json": b"old", "a.png": b"old"}
    assert len(list(tmp_path.glob(".a.*.tmp"))) == 2
    (tmp_path / ".b.png.1.tmp").write_text("of another question")
    with exclusive_lock(tmp_path, "a"):
        assert [path.name for path in tmp_path.glob(".*.tmp")] == [".b.png.1.tmp"]


def test_files_that_belong_together_are_replaced_together_and_the_last_one_last(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "replace", lambda source, target: order.append((target.name, source.exists())))
    with atomic_write(tmp_path / "q2.pt", tmp_path / "q2.json") as names:
        names[0].write_text("weights")
        assert order == []
        names[1].write_text("record")
    assert order == [("q2.pt", True), ("q2.json", True)]


def test_on_a_mount_without_locks_or_modes_files_are_written_all_the_same(tmp_path, monkeypatch):
    missing = [(fcntl, "flock", errno.ENOLCK), (fcntl, "flock", errno.EOPNOTSUPP), (os, "chmod", errno.EPERM)]
    for module, name, number in missing:

        def refuse(*args, number=number, **options):
            raise OSError(number, os.strerror(number))

        write(tmp_path / "q2_fcn.json", text="old")
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with exclusive_lock(tmp_path, "q2_fcn"):
                write(tmp_path / "q2_fcn.json")
        assert contents(tmp_path) == {"q2_fcn.json": b"new"}


def test_without_its_input_a_script_makes_no_folder_and_no_lock(tmp_path):
    for out in (tmp_path / "no" / "where", tmp_path):
        assert "run q1_data.py first" in error_of(run("q2_fcn.py", "--out", out))
    error_of(run("q1_data.py", "--data", tmp_path / "none.h5", "--out", tmp_path / "no" / "where"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    assert error_of(run("q1_data.py", "--out", tmp_path / "file")) == f"error: {tmp_path / 'file'}: File exists"


def fail_half_way(paths):
    paths[0].write_text("half")
    raise ZeroDivisionError


def test_an_error_removes_only_what_this_run_has_made(tmp_path):
    (tmp_path / "out").mkdir()
    for folder in (tmp_path / "out", tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt), exclusive_lock(folder, "a"):
            raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]
    paths = tmp_path / "new" / "a.pt", tmp_path / "new" / "a.json"
    write(tmp_path / "new" / "a.resume.pt")
    with pytest.raises(ZeroDivisionError), exclusive_lock(tmp_path / "new", "a"), atomic_write(*paths) as temporaries:
        fail_half_way(temporaries)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.resume.pt"]


def test_a_link_stays_and_what_it_leads_to_is_replaced_with_its_mode(tmp_path):
    target, link = tmp_path / "far" / "target.json", tmp_path / "link.json"
    write(target, text="old")
    target.chmod(0o640)
    (tmp_path / "between").symlink_to("far/target.json")
    link.symlink_to("between")
    inode = target.stat().st_ino
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_ino != inode  # replaced as a whole
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert {path.name for path in tmp_path.rglob("*")} == {"far", "target.json", "between", "link.json"}


def test_what_is_no_file_is_refused_and_left_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # stands for devices too: a broken atomic_write would replace the true /dev/null
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "dangling").symlink_to("gone/nowhere")
    for name in ("link", "pipe", "."):
        with pytest.raises(OSError, match="is not a file that can be replaced: name another one"):
            write(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="dangling cannot be written"):
        write(tmp_path / "dangling")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert {path.name for path in tmp_path.iterdir()} == {"dangling", "link", "pipe"}
