"""Robot frames a second, from pictures and from videos.

    python tools/logs.py frames

Two data sets are drawn, one of each storage, and read in three ways. Takes a minute. Needs LeRobot.
Writes nbs/logs/04_frames.csv."""
import tempfile

from measure.common import write_log


def main():
    "A row a storage"
    # In a process that is no notebook: the video encoder writes its progress over a page's outputs.
    from vlrlbook.aloha import AlohaFrames, reading_speeds
    from vlrlbook.data import synthetic_aloha
    # 192 frames: the third way reads three shuffled batches of 32 out of them.
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for videos in (False, True):
            path = synthetic_aloha(f"{folder}/{videos}", episodes=6, frames=32, videos=videos)
            rows.append(reading_speeds(AlohaFrames(path)))
    write_log("04_frames.csv", rows)
