"""A training that a node waits for: what is shown of it, and what happens when the person gives up."""

import pytest
from mapo_studio.comfy_nodes.training import wait
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.jobs.find_run import RunHandle
from mapo_studio.trainer.jobs.job import Job
from mapo_studio.trainer.runs.run_folder import Run


class Process:
    """A process that ends when it is told to."""

    def __init__(self):
        self.gone, self.killed = False, False

    def poll(self):
        return 0 if self.gone else None

    def kill(self):
        self.killed = self.gone = True

    def wait(self):
        assert self.gone


class Watcher:
    """A host at which something happens each time it is shown how far the run is."""

    def __init__(self, *happens, interruptions=()):
        self.happens, self.moments = list(happens), []
        self.interruptions = list(interruptions)

    def show(self, moment):
        self.moments.append(moment)
        assert self.happens, "nothing happens any more, and it still waits"
        self.happens.pop(0)()

    def interrupted(self):
        return self.interruptions.pop(0) if self.interruptions else False

    @property
    def lines(self):
        return [moment.line for moment in self.moments]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(wait, "_POLL_SECONDS", 0)
    monkeypatch.setattr(Job, "is_alive", lambda self: True)


@pytest.fixture
def run(tmp_path):
    made = Run.create(tmp_path, RunConfig(name="cats-1", base="tiny", data={"pairs": "dataset:cats"}))
    made.log("requested", rating=False)
    return made


def says(run, event, **values):
    return lambda: run.log(event, **values)


def handle(run, process=None):
    return RunHandle(run, "new", process)


def test_every_stage_is_shown_until_it_has_finished(run):
    watcher = Watcher(
        says(run, "waiting", waiting_for="the training dogs-1"),
        says(run, "acquired"),
        says(run, "encoding", phase="latents", done=3, total=12),
        says(run, "started", steps=40),
        says(run, "evaluation", step=0, agreement=0.5, low=0.2, high=0.8, pairs=4),
        says(run, "step", step=5, loss=0.1234567, remaining=125.0),
        says(run, "warning", text="enlarged"),
        says(run, "step", step=40, loss=0.1, remaining=0.0),
        says(run, "finished", step=40),
    )
    ending = wait.watch(handle(run), watcher)
    assert (ending.status.phase, ending.given_up) == ("finished", False)
    assert watcher.lines == [
        "starts",
        "waits for its turn: the training dogs-1 has the device",
        "loading the base",
        "encoding pictures: 3 of 12",
        "step 0 of 40",
        "step 0 of 40, agrees with you on 50 % (20-80 %)",
        "step 5 of 40, loss 0.1235, agrees with you on 50 % (20-80 %), 2 min 5 s left",
        "step 5 of 40, loss 0.1235, agrees with you on 50 % (20-80 %), 2 min 5 s left",
        "step 40 of 40, loss 0.1000, agrees with you on 50 % (20-80 %), evaluates and generates samples",
    ]
    assert [(one.done, one.total) for one in watcher.moments[3:6]] == [(3, 12), (0, 40), (0, 40)]


def test_the_newest_sheet_of_samples_goes_with_it(run):
    run.samples_folder.mkdir()
    for step in (0, 20):
        (run.samples_folder / f"step-{step:08d}.png").touch()
    watcher = Watcher(says(run, "finished", step=40))
    wait.watch(handle(run), watcher)
    assert watcher.moments[0].samples.name == "step-00000020.png"


def test_an_interruption_asks_the_run_to_save_and_waits_until_it_has(run):
    process = Process()

    def save():
        assert run.stop_file.exists()
        run.lora_file.touch()
        run.log("stopped", step=7)

    def leave():
        process.gone = True

    run.log("started", steps=40)
    run.log("step", step=7, loss=0.1, remaining=9.0)
    watcher = Watcher(lambda: None, save, leave, interruptions=[True])
    ending = wait.watch(handle(run, process), watcher)
    assert (ending.status.phase, ending.given_up, process.killed) == ("stopped", True, False)
    assert all("being saved" in line for line in watcher.lines)
    sentence = wait.ended(run, ending)
    assert "stopped at step 7 of 40" in sentence
    assert str(run.lora_file) in sentence


def test_a_second_interruption_ends_it_at_once(run):
    run.log("started", steps=40)
    run.log("step", step=7, loss=0.1, remaining=9.0)
    process = Process()
    nothing = [lambda: None] * 3
    ending = wait.watch(handle(run, process), Watcher(*nothing, interruptions=[True, False, True]))
    assert (ending.status.phase, ending.given_up, process.killed) == ("crashed", True, True)
    (run.state_folder / "step-00000005").mkdir(parents=True)
    assert wait.ended(run, ending).startswith("cats-1 was ended at step 7. It was saved at step 5.")


def test_one_that_does_not_save_in_time_is_ended(run):
    process = Process()
    ending = wait.watch(handle(run, process), Watcher(lambda: None, interruptions=[True]), grace=-1)
    assert (ending.status.phase, process.killed) == ("crashed", True)


def test_one_that_finishes_while_it_is_asked_to_stop_is_not_lost(run):
    process = Process()

    def finish():
        run.log("finished", step=40)
        process.gone = True

    ending = wait.watch(handle(run, process), Watcher(finish, interruptions=[True]))
    assert (ending.status.phase, ending.given_up) == ("finished", True)
    assert "had finished by then" in wait.ended(run, ending)


def test_one_that_was_found_at_work_is_not_waited_for_beyond_the_grace(run):
    run.log("started", steps=40)
    ending = wait.watch(RunHandle(run, "running"), Watcher(interruptions=[True]), grace=-1)
    assert ending.given_up
    assert run.stop_file.exists()
    assert "still saving" in wait.ended(run, ending)


def test_one_that_was_found_at_work_is_gone_when_it_is_said_to_be_stopped(run, monkeypatch):
    left = []
    monkeypatch.setattr(Job, "is_alive", lambda self: not left)
    watcher = Watcher(says(run, "stopped", step=0), lambda: left.append(True), interruptions=[True])
    assert wait.watch(RunHandle(run, "running"), watcher).status.phase == "stopped"
    assert left


def test_one_stopped_from_elsewhere_is_no_failure(run):
    ending = wait.watch(handle(run), Watcher(says(run, "stopped", step=0)))
    assert (ending.status.phase, ending.given_up) == ("stopped", True)
    assert "before its first step" in wait.ended(run, ending)


def test_a_process_that_ends_without_a_word_is_noticed_at_once(run):
    process = Process()

    def vanish():
        process.gone = True

    ending = wait.watch(handle(run, process), Watcher(vanish))
    assert (ending.status.phase, ending.given_up) == ("crashed", False)
    assert wait.ended(run, ending) == "cats-1 ended unexpectedly at step 0. Queue again to begin anew."


def test_a_failure_says_why_and_shows_the_end_of_the_log(run):
    (run.folder / "log.txt").write_text("".join(f"line {number}\n\n" for number in range(100)))
    ending = wait.watch(handle(run), Watcher(says(run, "failed", error="the disk is full.")))
    assert (ending.status.phase, ending.given_up) == ("failed", False)
    assert wait.ended(run, ending) == "cats-1 failed: the disk is full."
    words = wait.log_tail(run)
    assert words.splitlines()[-1] == "line 99"
    assert "line 85\n" in words
    assert "line 84\n" not in words
    assert str(run.folder / "log.txt") in words


def test_a_run_that_printed_nothing_has_no_last_words(run):
    assert wait.log_tail(run) == ""
