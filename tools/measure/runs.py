"""Chapter 05's runs: accuracy before and after, gains with intervals, cost.

    python tools/logs.py runs "WHAT=OUTPUT_DIR" ...

WHAT is what the log calls the run ("the preset": the page's table shows it), OUTPUT_DIR the folder that
it wrote; rows of other names and seeds stay. Reads finished runs, in a second. Writes nbs/logs/05_runs.csv."""
from measure.common import cost_and_source, named_folders, put_rows, read_jsonl, read_results

log = "05_runs.csv"


def main(
    first: str,  # WHAT=OUTPUT_DIR of a run
    *others: str,  # the same of more runs
):
    "Put runs in the log, in place of rows of the same name and seed"
    new = [run_row(what, folder) for what, folder in named_folders((first, *others))]
    put_rows(log, new, same=("what", "seed"), order=place_in_log)


def place_in_log(row):
    "Rows of the page's table first, then by name and seed"
    return row["in_table"] != "yes", row["what"], int(row["seed"])


def run_row(what, folder):
    "The row of one run"
    results = read_results(folder)
    settings = results["settings"]
    row = dict(what=what, in_table="yes" if what == "the preset" else "no")
    row |= {name: settings[name] for name in ("lr", "seed", "max_steps")}
    # Verbatim answers are not among the run's own metrics: they are counted from its texts.
    predictions = read_jsonl(folder / "predictions.jsonl")
    for how in ("sampled", "greedy"):
        for when in ("before", "after"):
            verbatim = share_verbatim(predictions, f"{when}_{how}")
            row |= answer_columns(f"{when}_{how}", verbatim, results[when][how])
        row |= gain_columns(results["gain"][how], how)
    # TRL's version too: its trainer has changed defaults that move these figures.
    return row | cost_and_source(results, "torch", "transformers", "trl")


def answer_columns(
    prefix: str,  # of the columns' names, such as "before_greedy"
    verbatim: float,  # share of answers that are the truth to the letter
    metrics: dict,  # of results.json, for the same answers
) -> dict:  # three columns
    "How well a model answered"
    return {
        f"{prefix}_verbatim": verbatim,
        f"{prefix}_exact": round(metrics["exact_accuracy"], 4),
        f"{prefix}_error": round(metrics["mean_absolute_error"], 4),
    }


def share_verbatim(
    predictions: list,  # rows of predictions.jsonl: a picture each, with lists of answers
    key: str,  # of the lists, such as "before_greedy"
) -> float:  # share of all answers that are the truth and nothing else
    "How often the answer is the truth to the letter, which the reward's reader does not ask for"
    right = count = 0
    for prediction in predictions:
        truth = prediction["answer"]
        for text in prediction[key]:
            right += text.strip() == truth
            count += 1
    return round(right / count, 4)


def gain_columns(gain, how):
    "What training added to reward and to exact answers, each with its 95 % interval"
    columns = {}
    for measure, short in (("mean_reward", "reward"), ("exact_accuracy", "exact")):
        low, high = gain[f"{measure}_ci95"]
        # The page finds both ends of an interval by these endings.
        name = f"gain_{how}_{short}"
        columns[name] = round(gain[measure], 4)
        columns[f"{name}_low"] = round(low, 4)
        columns[f"{name}_high"] = round(high, 4)
    return columns
