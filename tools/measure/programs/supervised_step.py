"""Mean seconds of a supervised step of chapter 05's warm start: `supervised_step.py`."""
import json
import time

from vlrlbook.grpo import supervised


def main(steps=10):
    "Print the mean of some steps"
    supervised("qwen2_5_vl", 2, 0)  # threads are started and memory is there before the clock runs
    start = time.perf_counter()
    supervised("qwen2_5_vl", steps, 0)
    seconds = time.perf_counter() - start
    print("ROW", json.dumps(dict(seconds=seconds / steps)))


if __name__ == "__main__":
    main()
