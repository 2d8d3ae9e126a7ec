"""Frames a second of making films with the ALOHA simulator, and of reading them back.

    python tools/logs.py film_speeds [FILMS]

FILMS of the command `vlrlbook aloha-films` are made twice, stored as pictures and as videos (18 unless said
otherwise: each script at least once), and read in the three ways of `frames`. Needs LeRobot and the extra
`films`, whose packages are large: an environment of their own does, beside this one. Where no screen is, MuJoCo
draws by MUJOCO_GL=egl or osmesa. Takes a few minutes. Writes nbs/logs/04_film_speeds.csv."""
import importlib.metadata
import os
import sys
import tempfile
import time

from measure.common import made_by, write_log

fewest = 9  # films: three batches of 32 frames are read, and a film has thirteen or more


def main(
    films: str = "18",  # to make, of each storage
):
    "A row a storage"
    if int(films) < fewest:
        sys.exit(f"FILMS = {films}: expected at least {fewest}, whose frames are enough to be read in batches")
    rows = [row(int(films), videos) for videos in (False, True)]
    write_log("04_film_speeds.csv", rows)


def row(films, videos):
    "Make films, read them, and say how fast either went"
    from vlrlbook.aloha import AlohaFrames, reading_speeds
    from vlrlbook.aloha_films import make_films
    with tempfile.TemporaryDirectory() as folder:
        # Seconds of this process on a core beside those by the clock: a machine may have other work.
        began, on_core = time.perf_counter(), time.process_time()
        made = make_films(f"{folder}/films", films=films, videos=videos)
        seconds, core_seconds = time.perf_counter() - began, time.process_time() - on_core
        frames = AlohaFrames(made)
        size = sum(path.stat().st_size for path in made.root.rglob("*") if path.is_file())
        read = reading_speeds(frames)
    return dict(
        storage=read.pop("storage"),
        films=films,
        frames=len(frames),
        making=round(len(frames) / seconds, 2),
        making_by_core_seconds=round(len(frames) / core_seconds, 2),
        seconds_a_film=round(seconds / films, 2),
        kilobytes_a_film=round(size / films / 1024, 1),
        **{f"reading, {way}": speed for way, speed in read.items()},
        drawn_by=os.environ.get("MUJOCO_GL", "MuJoCo's own choice"),
        gym_aloha=importlib.metadata.version("gym-aloha"),
        mujoco=importlib.metadata.version("mujoco"),
        **made_by(),
    )
