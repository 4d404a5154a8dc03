"""Dask's workers compute what one process computes, also when one of them is killed."""

import os
import runpy
import shutil
import sys
import time

from common.hardware.parallel import compute_one
from use.pieces import Classifier, Piece, classify_there

import pytest
from conftest import error_of, run, run_well
from forked import CONTEXT, start
from networks import save_cutouts, save_network, save_pictures

pytest.importorskip("distributed")
ROWS = 6000  # of which a worker gets 2048 at a time


def serve(script, log, *args):
    """In the new process: run one of Dask's programs."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    sys.argv = [script, *args]
    runpy.run_module(f"distributed.cli.dask_{script}", run_name="__main__")


def launch(script, folder, number, *args):
    """Start a scheduler or a worker; return its process and the file of what it prints."""
    log = folder / f"{script}-{number}.log"
    process = CONTEXT.Process(target=serve, args=(script, log, *args, "--no-dashboard"), daemon=True)
    process.start()
    return process, log


def address_in(log, words):
    """Wait for a line with `words` in a log; return the address at its end."""
    for _ in range(600):
        for line in log.read_text().splitlines() if log.exists() else ():
            if words in line:
                return line.split()[-1]
        time.sleep(0.1)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module", autouse=True)
def alone(folder, tmp_path_factory):
    """A run whose scheduler is not there, which it finds out in ten seconds, and its output."""
    out = tmp_path_factory.mktemp("alone")
    command = ("predict.py", folder / "few" / "00.png", "--model", folder / "q3_cnn.pt", "--csv", out / "a.csv")
    return start(*command, "--dask", "tcp://127.0.0.1:1", log="/dev/null", errors=out / "errors"), out


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a scheduler, with two workers in other folders, and these as processes with their addresses."""
    folder = tmp_path_factory.mktemp("cluster")
    scheduler, log = launch("scheduler", folder, 0, "--host", "127.0.0.1", "--port", "0")
    address = address_in(log, "Scheduler at:")
    options = ("--no-nanny", "--nthreads", "1", "--host", "127.0.0.1", "--local-directory", str(folder))
    workers = [launch("worker", folder, number, address, *options) for number in range(2)]
    addresses = [address_in(log, "Start worker at:") for _, log in workers]
    for _, log in workers:
        address_in(log, "Registered to:")
    yield address, [process for process, _ in workers], addresses
    for process in (scheduler, *(process for process, _ in workers)):
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with random weights, pictures in files, one of them damaged, and many in an HDF5 file."""
    folder = tmp_path_factory.mktemp("pictures")
    save_network(folder)
    save_pictures(folder / "few", [f"{number:02}.png" for number in range(70)])
    (folder / "few" / "07.png").write_bytes((folder / "few" / "07.png").read_bytes()[:500])
    save_cutouts(folder / "cutouts.h5", ROWS)
    return folder


def predict(folder, out, *pictures_and_options):
    outputs = [part for kind in ("csv", "json", "html") for part in (f"--{kind}", out / f"a.{kind}")]
    return ("predict.py", *pictures_and_options, "--model", folder / "q3_cnn.pt", *outputs)


def test_a_study_gives_the_results_of_one_process(cluster, synthetic_run, tmp_path):
    options = ("--epochs", 1, "--transfer-epochs", 1, "--grid", 1, "--device", "cpu")
    found = {}
    for name, runs in (("here", (("0",), ("1",))), ("there", (("0,1", "--dask", cluster[0]),))):
        (tmp_path / name).mkdir()
        shutil.copy(synthetic_run[0] / "q1_data.pt", tmp_path / name)
        for seeds, *more in runs:  # one alone is computed in the process itself
            run_well("studies/seeds.py", "--seeds", seeds, *options, *more, "--out", tmp_path / name)
        studies = tmp_path / name / "studies"
        found[name] = {path.name: path.read_text() for path in (studies / "seeds").glob("*.json")}
        found[name] |= {path.name: path.read_bytes() for path in (studies / "networks").glob("*.pt")}
    assert len(found["here"]) == 6
    assert found["here"] == found["there"]


def test_pictures_get_the_rows_of_one_process(cluster, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)  # names that are relative to it, where the workers are not
    found = []
    for more in ((), ("--dask", cluster[0])):
        options = ("--symmetries", "--crops", 1, "--features", tmp_path / "a.npz", *more)
        done = run(*predict(folder, tmp_path, "few", "none.png", *options))
        assert done.returncode == 2
        written = ((tmp_path / f"a.{kind}").read_bytes() for kind in ("csv", "json", "npz"))
        found.append((done.stdout, done.stderr, *written))
    assert found[0] == found[1]


def test_when_a_worker_is_killed_nothing_is_lost(cluster, folder, tmp_path):
    """Nor of what a run without a cluster has done, which was interrupted and resumes on one."""
    address, workers, _ = cluster
    (tmp_path / "here").mkdir()
    run_well(*predict(folder, tmp_path / "here", folder / "cutouts.h5", "--quiet"))
    command = predict(folder, tmp_path, folder / "cutouts.h5", "--quiet")
    part, journal, log = tmp_path / "a.csv.part", tmp_path / "a.csv.resume", tmp_path / "log"
    process = start(*command, log="/dev/null")
    while process.is_alive() and not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
        time.sleep(0.02)
    process.terminate()
    process.join()
    before = part.stat().st_size
    process = start(*command, "--resume", "--dask", address, log=log)
    while process.is_alive() and not (part.exists() and part.stat().st_size > before + 1000):
        time.sleep(0.02)
    workers[0].kill()
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    assert "Resuming" in log.read_text()
    for kind in ("csv", "json", "html"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / "here" / f"a.{kind}").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.csv.resume", "a.html", "a.json", "here", "log"]


def test_a_wrong_address_is_one_sentence(cluster, folder, tmp_path, alone):
    picture = folder / "few" / "00.png"
    for address, reason in (("nowhere", "missing port number"), ("", "missing port"), (cluster[2][1], "but a Worker")):
        error = error_of(run(*predict(folder, tmp_path, picture, "--dask", address)))
        assert error.startswith(f"error: --dask {address}: no Dask scheduler answers there (")
        assert reason in error
    assert "--explain" in error_of(run(*predict(folder, tmp_path, picture, "--dask", "a:1", "--explain", tmp_path)))
    assert list(tmp_path.iterdir()) == []
    process, out = alone
    process.join(60)
    assert process.exitcode == 2
    error = (out / "errors").read_text()
    assert error.startswith("error: --dask tcp://127.0.0.1:1: no Dask scheduler answers there (Timed out")
    assert error.count("\n") == 1
    assert [path.name for path in out.iterdir()] == ["errors"]


def test_what_a_worker_does_not_see_is_named_in_one_sentence(folder):
    with pytest.raises(OSError, match=r"the Dask worker on .* does not see this folder"):
        compute_one("/no/where", print, "a")
    classifier = Classifier("/no/where/q3_cnn.pt", "", 9, False, "cpu", 1.0, False)
    with pytest.raises(FileNotFoundError, match=r"the Dask worker on .* does not see this file"):
        classify_there(classifier, (Piece(0, ["/no/where/1.jpg"]), "/no/where/1.jpg"))
    with pytest.raises(ValueError, match=r"the pictures from a.h5\[10\] on: .*q3_cnn.pt"):
        classify_there(classifier, (Piece(0, ["a.h5"], range(10, 20)), None))
    other = classifier._replace(model=str(folder / "q3_cnn.pt"))
    with pytest.raises(ValueError, match=r"q3_cnn\.pt is another network on"):
        classify_there(other, (Piece(0, ["1.jpg"]), None))
