"""Dask, started by the commands of docs/scale.md in another folder: its workers compute what one process computes."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common.hardware import parallel
from use.pieces import Classifier, Piece, classify_there

import pytest
from conftest import ROOT, error_of, run, run_well
from forked import start
from networks import save_cutouts, save_network, save_pictures

distributed = pytest.importorskip("distributed")
ROWS = 4200  # of which a worker gets 2048 at a time


@contextmanager
def service(name, folder, ready, address=""):
    """Run the page's command `dask NAME` in `folder`, with one worker; give the word after `ready` in its log."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    [command] = re.findall(rf"^    dask ({name}.*?)(?: *#.*)?$", page, re.MULTILINE)
    words = shlex.split(command.replace("tcp://10.0.0.1:8786", address).replace("--nworkers 16", "--nworkers 1"))
    words += ["--host", "127.0.0.1", "--no-dashboard", *(["--port", "0"] if name == "scheduler" else [])]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    log = folder / f"{time.time_ns()}.log"
    with log.open("w") as stream, ExitStack() as stack:
        program = Path(sysconfig.get_path("scripts")) / "dask"
        started = subprocess.Popen([program, *words], cwd=folder, env=environment, stdout=stream, stderr=stream)
        stack.callback(started.wait)
        stack.callback(started.terminate)
        deadline = time.monotonic() + 120
        while not (found := re.search(rf"{ready} +(\S+)", log.read_text())):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield found[1]


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a scheduler with one worker, both in a folder outside the project."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with service("scheduler", folder, "Scheduler at:") as address, service("worker", folder, "Registered to:", address):
        yield address


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network with random weights, pictures in files, one of them damaged, and many in an HDF5 file."""
    folder = tmp_path_factory.mktemp("pictures")
    save_network(folder)
    save_pictures(folder / "few", [f"{number:02}.png" for number in range(70)])
    (folder / "few" / "07.png").write_bytes((folder / "few" / "07.png").read_bytes()[:500])
    save_cutouts(folder / "cutouts.h5", ROWS)
    return folder


def asked(address, question):
    """What each worker answers, by its address."""
    with distributed.Client(address) as client:
        return client.run(question)


def executed(address):
    """How many tasks the workers have executed."""
    return sum(asked(address, lambda dask_worker: dask_worker.state.executed_count).values())


def predict(folder, out, *pictures_and_options):
    outputs = [part for kind in ("csv", "json", "html") for part in (f"--{kind}", out / f"a.{kind}")]
    return ("predict.py", *pictures_and_options, "--model", folder / "q3_cnn.pt", *outputs)


def test_one_worker_computes_a_study_with_the_results_of_one_process(scheduler, synthetic_run, tmp_path):
    before = executed(scheduler)
    options = ("--seeds", 0, "--epochs", 1, "--transfer-epochs", 1, "--grid", 1, "--device", "cpu")
    found = []
    for name, more in (("here", ()), ("there", ("--dask", scheduler))):
        (tmp_path / name).mkdir()
        shutil.copy(synthetic_run[0] / "q1_data.pt", tmp_path / name)
        run_well("studies/seeds.py", *options, *more, "--out", tmp_path / name)
        studies = tmp_path / name / "studies"
        found.append(
            {path.name: path.read_bytes() for kind in ("seeds/*.json", "networks/*.pt") for path in studies.glob(kind)}
        )
    assert len(found[0]) == 3
    assert found[0] == found[1]
    assert executed(scheduler) == before + 1


def test_one_worker_computes_the_rows_of_one_process(scheduler, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)  # names that are relative to it, where the worker is not
    before, found = executed(scheduler), []
    for more in ((), ("--dask", scheduler)):
        options = ("--symmetries", "--crops", 1, "--features", tmp_path / "a.npz", *more)
        done = run(*predict(folder, tmp_path, "few", "none.png", *options))
        assert done.returncode == 2
        written = ((tmp_path / f"a.{kind}").read_bytes() for kind in ("csv", "json", "npz"))
        found.append((done.stdout, done.stderr, *written))
    assert found[0] == found[1]
    assert executed(scheduler) == before + 1


def test_when_a_worker_is_killed_nothing_is_lost(scheduler, folder, tmp_path):
    """Nor what an interrupted run without Dask had written, which resumes with it."""
    (tmp_path / "here").mkdir()
    run_well(*predict(folder, tmp_path / "here", folder / "cutouts.h5", "--quiet"))
    command = predict(folder, tmp_path, folder / "cutouts.h5", "--quiet")
    part, log = tmp_path / "a.csv.part", tmp_path / "log"

    def run_until(size, *options):
        process = start(*command, *options, log=log)
        while process.is_alive() and not (part.exists() and part.stat().st_size > size):
            time.sleep(0.02)
        return process

    process = run_until(50_000)
    process.terminate()
    process.join()
    with service("worker", tmp_path, "Registered to:", scheduler):
        process = run_until(part.stat().st_size + 1000, "--resume", "--dask", scheduler)
        os.kill(max(asked(scheduler, os.getpid).values()), signal.SIGKILL)
        process.join(120)
    assert process.exitcode == 0, log.read_text()
    assert "Resuming" in log.read_text()
    for kind in ("csv", "json", "html"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / "here" / f"a.{kind}").read_bytes()
    assert not part.exists()


def test_a_wrong_address_is_one_sentence(scheduler, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "PATIENCE", 3)
    [worker, *_] = asked(scheduler, os.getpid)
    wrong = {"": "missing port", worker: "but a Worker", "tcp://127.0.0.1:1": "Timed out"}
    for address, reason in wrong.items():
        sentence = re.escape(f"--dask {address}: no scheduler with workers answers there (") + f".*{reason}"
        with pytest.raises(ConnectionError, match=sentence):
            list(parallel.side_by_side(len, ["a"], dask=address))
    error = error_of(run(*predict(folder, tmp_path, folder / "few" / "00.png", "--dask", "nowhere")))
    assert error.startswith("error: --dask nowhere: no scheduler with workers answers there (missing port number")
    assert list(tmp_path.iterdir()) == []


def test_while_nothing_comes_back_a_line_says_where_to_look(scheduler, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "SILENCE", 0.5)
    assert list(parallel.side_by_side(time.sleep, [2], dask=scheduler)) == [None]
    sentence = (
        "No result from Dask for 0.5 seconds (workers: 1): "
        "if this continues, see the logs of the scheduler and the workers\n"
    )
    assert capsys.readouterr().err == sentence


def test_what_a_worker_does_not_see_is_named_in_one_sentence(folder):
    with pytest.raises(OSError, match=r"the Dask worker on .* does not see this folder"):
        parallel.worker_function("/no/where", str(ROOT))(b"")
    classifier = Classifier("/no/where/q3_cnn.pt", "", 9, False, "cpu", 1.0, False)
    with pytest.raises(FileNotFoundError, match=r"the Dask worker on .* does not see this file"):
        classify_there(classifier, (Piece(0, ["/no/where/1.jpg"]), "/no/where/1.jpg"))
    with pytest.raises(ValueError, match=r"the pictures from a.h5\[10\] on: .*q3_cnn.pt"):
        classify_there(classifier, (Piece(0, ["a.h5"], range(10, 20)), None))
    other = classifier._replace(model=str(folder / "q3_cnn.pt"))
    with pytest.raises(ValueError, match=r"q3_cnn\.pt is a different network on"):
        classify_there(other, (Piece(0, ["1.jpg"]), None))


def test_the_commands_of_the_page_for_pictures_and_for_the_measurement(scheduler, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "artifacts")
    Path("list.txt").write_text("artifacts/few/00.png\nartifacts/few/01.png\n")
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").replace("tcp://10.0.0.1:8786", scheduler)
    [predict_line, _, measure_line] = re.findall(r"^    python (.*)$", page, re.MULTILINE)
    command, stdin = predict_line.split(" < ")
    run_well(*shlex.split(command), stdin=stdin)
    assert len(Path("answers.csv").read_text().splitlines()) == 3
    assert measure_line == "-m benchmarks.cluster"
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))  # distributed starts `dask`
    printed = run_well("benchmarks/cluster.py", "--count", 40, "--workers", 1, PATH=path)
    assert re.search(r"^Dask workers: 1 +[\d,]+ JPEGs of 424 pixels per second\noverhead of a task", printed, re.M)
