"""Run a page by papermill into out.ipynb, and print its memory: `run_page.py PAGE`."""
import json
import resource
import subprocess
import sys


def main(page):
    "Print the most memory that any process of the run has held"
    command = [sys.executable, "-m", "papermill", page, "out.ipynb", "--no-progress-bar"]
    done = subprocess.run(command)
    # Of papermill, its kernel and what the page starts, once they have ended; in kB on Linux.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    memory_kb = usage.ru_maxrss
    print("ROW", json.dumps(dict(memory_mb=memory_kb // 1024)))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
