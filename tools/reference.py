"""Reference values for the metrics of chapter 06, from the libraries that others use, on random inputs.

    uv run --no-project --with scikit-learn --with scipy --with statsmodels --with rouge-score \\
        python tools/reference.py

Writes tests/support/reference_metrics.json; the tests compare with it, so none of these packages is needed to run them."""
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import bootstrap, spearmanr
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, mean_absolute_error
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

# Classes without a prediction are among the cases on purpose.
warnings.filterwarnings("ignore", category=UndefinedMetricWarning)
# All cases are drawn from this one generator: in another order they would be others.
rng = np.random.default_rng(20261121)
words = "the left right lung liver no effusion mass small large 2 3 two of chest".split()
libraries = ("numpy", "scipy", "scikit-learn", "statsmodels", "rouge-score")


def classes():
    "Labels and predictions of two to seven classes, some of them never seen"
    n, k = int(rng.integers(5, 200)), int(rng.integers(2, 8))
    labels = rng.integers(0, k, n)
    # Right at least six times of ten.
    said = np.where(rng.random(n) < 0.6, labels, rng.integers(0, k, n))
    table = confusion_matrix(labels, said, labels=range(k))
    return dict(
        labels=labels.tolist(),
        said=said.tolist(),
        classes=k,
        accuracy=accuracy_score(labels, said),
        macro_f1=f1_score(labels, said, average="macro"),
        mae=mean_absolute_error(labels, said),
        confusion=table.tolist(),
    )


def ranks():
    "Two columns with ties"
    n = int(rng.integers(3, 60))
    a, b = rng.integers(0, 10, n), rng.integers(0, 10, n)
    found = spearmanr(a, b)
    return dict(a=a.tolist(), b=b.tolist(), spearman=float(found.statistic))


def some_words():
    "A text of one to seven words"
    return " ".join(rng.choice(words, int(rng.integers(1, 8))))


def normalised(text):
    "What chapter 02 leaves of a text before it compares: no articles, numbers as digits"
    kept = [word for word in text.split() if word != "the"]
    return " ".join("2" if word == "two" else word for word in kept)


def overlap():
    "Two texts; ROUGE-1 is the overlap of words, each counted as often as it stands in both"
    said, truth = some_words(), some_words()
    scores = RougeScorer(["rouge1"]).score(normalised(truth), normalised(said))
    found = scores["rouge1"]
    return dict(said=said, truth=truth, recall=found.recall, f1=found.fmeasure)


def mean():
    "Skewed values, and SciPy's percentile bootstrap of their mean"
    values = rng.exponential(size=int(rng.integers(20, 300)))
    # Many resamples, so that little of a difference is the reference's own chance.
    found = bootstrap((values,), np.mean, method="percentile", n_resamples=20000, random_state=0)
    interval = found.confidence_interval
    return dict(values=values.tolist(), low=interval.low, high=interval.high)


def shares():
    "A share of n, and Wilson's interval of it"
    n = int(rng.integers(1, 600))
    k = int(rng.integers(0, n + 1))
    low, high = proportion_confint(k, n, method="wilson")
    return dict(k=k, n=n, ci95=[float(low), float(high)])


def flips():
    "Answers that became right and wrong, and the exact test of McNemar"
    gained, lost = map(int, rng.integers(0, 40, 2))
    # What stayed as it was, the two fives, does not enter the test.
    found = mcnemar([[5, gained], [lost, 5]], exact=True)
    return dict(gained=gained, lost=lost, p=float(found.pvalue))


def cases():
    "Everything that the tests compare with"
    return dict(
        versions={name: version(name) for name in libraries},
        classes=[classes() for _ in range(30)],
        ranks=[ranks() for _ in range(30)],
        overlap=[overlap() for _ in range(100)],
        mean=[mean() for _ in range(5)],
        shares=[shares() for _ in range(60)],
        flips=[flips() for _ in range(60)],
    )


if __name__ == "__main__":
    made = cases()
    path = Path(__file__).resolve().parent.parent / "tests" / "support" / "reference_metrics.json"
    path.write_text(json.dumps(made) + "\n")
    print(path.name, *made["versions"].items())
