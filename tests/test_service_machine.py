"""Uploads and jobs under moves in any order, two of them often at the same moment: what a job needs is never taken away from it."""
import os
import shutil
import tempfile
import threading
from pathlib import Path

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from support.damage import PACKED, opened
from support.faults import die, history_is_legal
from vlrlbook.jobs import ends

FULL = bool(os.environ.get("VLRLBOOK_FULL"))
YES = (200, 204)


class ServiceMachine(RuleBasedStateMachine):
    "The application without a network and without a dispatcher: states of jobs are moved by hand, as a dispatcher would"
    files, jobs = Bundle("files"), Bundle("jobs")

    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp())
        self.client = opened(self.folder)

    def ask(self, method, path, **more):
        answer = self.client.request(method, path, **more)
        assert answer.status_code < 500, answer.text
        return answer

    def at_once(self, *requests):
        "Requests from threads that begin together; their answers in order"
        answers, start = [None] * len(requests), threading.Barrier(len(requests))
        def one(i):
            start.wait()
            answers[i] = self.ask(*requests[i][:2], **requests[i][2])
        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(requests))]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        return answers

    def to_train(self, file): return ("POST", "/train", dict(json=dict(job_name="a", data_file_id=file,
                                                                       training_config=dict(max_steps=3))))

    @rule(target=files)
    def upload(self): return self.ask("POST", "/upload-data", files={"file": ("a.zip", PACKED)}).json()["file_id"]

    @rule(target=jobs, file=files)
    def train(self, file):
        method, path, more = self.to_train(file)
        answer = self.ask(method, path, **more)
        assert (answer.status_code == 200) == (self.ask("GET", f"/files/{file}").status_code == 200)
        return answer.json()["job_id"] if answer.status_code == 200 else multiple()

    @rule(file=files)
    def delete_the_data(self, file): self.ask("DELETE", f"/files/{file}")

    @rule(target=jobs, file=files)
    def delete_the_data_while_a_job_is_started_on_it(self, file):
        started, deleted = self.at_once(self.to_train(file), ("DELETE", f"/files/{file}", {}))
        # Both may refuse, where the data was gone before; both may not say yes.
        assert not (started.status_code in YES and deleted.status_code in YES)
        return started.json()["job_id"] if started.status_code == 200 else multiple()

    @rule(job=jobs)
    def resume_while_its_data_is_deleted(self, job):
        file = self.ask("GET", f"/jobs/{job}").json().get("data_file_id")
        resumed, deleted = self.at_once(("POST", f"/jobs/{job}/resume", {}), ("DELETE", f"/files/{file}", {}))
        assert not (resumed.status_code in YES and deleted.status_code in YES)

    @rule(job=jobs)
    def resume(self, job):
        answer, told = self.ask("POST", f"/jobs/{job}/resume"), self.ask("GET", f"/jobs/{job}").json()
        there = self.ask("GET", f"/files/{told.get('data_file_id')}").status_code == 200
        assert answer.status_code != 200 or there

    @rule(job=jobs)
    def cancel(self, job): self.ask("DELETE", f"/jobs/{job}")

    @rule(job=jobs)
    def cancel_while_the_next_attempt_begins(self, job):
        "The first attempt died, the second begins as the order comes: the order is the second one's, or is refused"
        ledger, row = self.client.jobs.ledger, self.client.jobs.ledger.job(job)
        if row is None or row["status"] != "queued": return
        ledger.move(job, "queued", "training", "slot 0", attempt=row["attempt"] + 1, slot="0")
        first = ledger.job(job)
        def begin_again():
            ledger.move(job, "training", "interrupted", "died", of_attempt=first["attempt"])
            ledger.move(job, "interrupted", "queued", "again", of_attempt=first["attempt"])
            ledger.move(job, "queued", "training", "slot 0", attempt=first["attempt"] + 1, slot="0")
            self.client.jobs.running.look_at(first)  # by somebody who read the row long ago
        other = threading.Thread(target=begin_again)
        other.start()
        answer = self.ask("DELETE", f"/jobs/{job}")
        other.join()
        row = ledger.job(job)
        asked = [move["to"] for move in self.client.jobs.events(job) if move["why"] == "asked"]
        assert row["status"] != "cancelled" or asked or answer.status_code == 409, self.client.jobs.events(job)
        # What a dispatcher sees next: nobody lives there.
        for _ in range(3):
            if ledger.job(job)["status"] in ("training", "cancelling"): self.client.jobs.running.look_at(ledger.job(job))

    @rule(job=jobs, whole=st.booleans())
    def fail(self, job, whole):
        "An attempt that ended badly, with or without a checkpoint to resume from"
        jobs = self.client.jobs
        row = jobs.ledger.job(job)
        if row is None or row["status"] != "queued": return
        if whole:
            checkpoint = jobs.folder(job) / "run" / "checkpoint-1"
            checkpoint.mkdir(parents=True, exist_ok=True)
            (checkpoint / "manifest.json").write_text("{}")
        jobs.ledger.move(job, "queued", "training", "slot 0", attempt=row["attempt"] + 1, slot="0")
        jobs.ledger.move(job, "training", "failed", "trainer.exit", of_attempt=row["attempt"] + 1, error_code="trainer.exit")

    @rule(job=jobs)
    def purge(self, job): self.ask("DELETE", f"/jobs/{job}?purge=true")

    @rule()
    def tidy(self): self.ask("POST", "/clean-up?older_than_days=0")

    @rule()
    def crash(self):
        die(self.client.jobs)
        self.client = opened(self.folder)

    @invariant()
    def every_job_that_has_not_ended_has_its_data(self):
        if not hasattr(self, "client"): return
        known = {f["file_id"] for f in self.ask("GET", "/files?limit=500").json()["files"]}
        assert known == {path.name for path in (self.folder / "uploads").iterdir()}
        for job in self.ask("GET", "/jobs?limit=500").json()["jobs"]:
            assert history_is_legal(self.client.jobs.events(job["job_id"]))
            if job["status"] not in ends: assert job["data_file_id"] in known, job

    def teardown(self):
        if not hasattr(self, "client"): return
        self.client.jobs.stop()
        shutil.rmtree(self.folder)


TestServiceMachine = ServiceMachine.TestCase
TestServiceMachine.settings = settings(max_examples=60 if FULL else 8, stateful_step_count=25 if FULL else 14, deadline=None,
                                       suppress_health_check=list(HealthCheck))
