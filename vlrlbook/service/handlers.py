"""`Service`: which part of the wing answers which address, and what the parts share.

Written by hand, not exported from a notebook."""
import asyncio

from ..settings import by_task
from .ask_handlers import AskSide
from .front_page import Front
from .job_handlers import JobSide, StateSide
from .options import ServiceSettings
from .rank_handlers import RankSide
from .refusals import Problem
from .replies import reply
from .request_parts import query
from .result_handlers import EventSide, ResultSide
from .run_log_reader import RunLogs
from .training_form import request_form
from .upload_handlers import UploadSide
from .uploads import Uploads

__all__ = ["Service"]

_at_once = 2  # archives that are read or notebooks that are made into pages; each takes a whole processor
_days_if_not_kept = 30.0  # age for POST /clean-up where the server itself removes nothing
_most_days = 36500.0  # a hundred years


class Service:
    "The service of one data directory; its attributes named like an `Endpoint` take a request and answer it"
    def __init__(self,
        settings: ServiceSettings,  # checked
        jobs,  # `vlrlbook.jobs.Jobs`: starts jobs, and keeps them in a ledger
        token: str = None,  # that clients must show; None: none is needed
    ):
        "Make the parts of the service, and give each what it shares with others"
        self.settings = settings
        self.jobs = jobs
        self.token = token
        self.size = settings.trains  # tiny or gpu
        # Task → the settings that a request to train it may give.
        self.forms = {task: request_form(self.size, task) for task in by_task}
        self.uploads = Uploads(settings.data_dir, jobs.clock)
        self.stopping = asyncio.Event()  # set when the server stops
        # What `Jobs.stop` returned when it did: how many jobs have saved, for example.
        self.stopped_jobs: dict | None = None
        # Limits how many archives are read and notebooks made into pages at the same time.
        self.readers = asyncio.Semaphore(_at_once)

        # Parts of the service, each with the methods that answer some of the addresses.
        self.front_side = Front(settings, self.size, self.forms, self.uploads, token)
        self.upload_side = UploadSide(settings, self.uploads, jobs, self.readers)
        self.state_side = StateSide(jobs)
        self.job_side = JobSide(jobs, self.uploads, self.state_side, self.size, self.forms,
                                settings.stall_seconds)
        logs = RunLogs()
        self.result_side = ResultSide(settings, jobs, self.readers, logs)
        self.event_side = EventSide(settings, jobs, self.stopping, logs)
        # aside: the folder for what is still being received
        self.ask_side = AskSide(settings, jobs, self.uploads.aside)
        self.rank_side = RankSide(settings)
        self._name_answers()  # makes the methods of these parts attributes: `self.upload`, `self.train`, …

    def _name_answers(self):
        """Set an attribute for each address: the method that answers it.

        `create_app` looks it up by `Endpoint.name`, so its name must be the one in the table of addresses."""
        self.front = self.front_side.front
        self.static = self.front_side.static
        self.data_format = self.front_side.data_format
        self.settings_form = self.front_side.settings_form
        self.sample_data = self.front_side.sample_data

        self.upload = self.upload_side.upload
        self.files = self.upload_side.files
        self.file = self.upload_side.file
        self.rows = self.upload_side.rows
        self.image = self.upload_side.image
        self.remove_file = self.upload_side.remove_file

        self.train = self.job_side.train
        self.list_jobs = self.job_side.list_jobs
        self.job = self.state_side.job  # not `job_side`: this one serves a thousand requests a second
        self.cancel = self.job_side.cancel
        self.resume = self.job_side.resume
        self.moves = self.job_side.moves

        self.log = self.result_side.log
        self.metrics = self.result_side.metrics
        self.rollouts = self.result_side.rollouts
        self.notebook = self.result_side.notebook
        self.download = self.result_side.download
        self.events = self.event_side.events
        self.verdict = self.ask_side.verdict
        self.ask = self.ask_side.ask
        self.rank = self.rank_side.rank

    @property
    def command(self) -> list | None:
        "The command line that trains a job; None: the usual one of `vlrlbook.jobs`"
        return self.job_side.command

    @command.setter
    def command(self, words):
        self.job_side.command = words

    async def clean_up(self, request):
        "POST /clean-up: remove ended jobs and unneeded uploads by age"
        default_days = self.settings.keep_days or _days_if_not_kept  # keep_days = 0 keeps all: then 30 days
        # (type, default, smallest, largest value)
        parameters = query(request, older_than_days=(float, default_days, 0.0, _most_days))
        days = parameters["older_than_days"]
        # Jobs first: an upload is needed as long as a job that has not ended trains on it.
        try:
            removed_jobs = await asyncio.to_thread(self.jobs.clean_up, days)
        finally:
            # GET /jobs/ID replies from memory for a moment: it must not go on showing a removed job.
            self.state_side.forget_all()
        removed_files = await asyncio.to_thread(self.tidy, days)
        return reply(dict(files=removed_files, jobs=removed_jobs))

    def tidy(self,
        days: float,  # least age in days; the jobs' clock counts only while a server runs
    ) -> list:  # file_ids of what was removed
        "Remove uploads that no job needs and that are at least `days` old"
        removed_ids = []
        for file_id in self.uploads.older(days):
            try:
                is_removed = self.uploads.remove(file_id, self.upload_side.is_needed)
            except Problem:
                continue  # its owner has just deleted it
            if is_removed:
                removed_ids.append(file_id)
        return removed_ids
