"""Reference values for the metrics of chapter 06, from the libraries that others use, on random inputs.

    uv run --no-project --with scikit-learn --with scipy --with statsmodels --with rouge-score python tools/reference.py

Writes tests/reference_metrics.json; the tests compare with it, so none of these packages is needed to run them."""
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

warnings.filterwarnings("ignore", category=UndefinedMetricWarning)
rng = np.random.default_rng(20261121)
words = "the left right lung liver no effusion mass small large 2 3 two of chest".split()


def classes():
    "Labels and predictions of three to seven classes, some of them never seen"
    n, k = int(rng.integers(5, 200)), int(rng.integers(2, 8))
    labels = rng.integers(0, k, n)
    said = np.where(rng.random(n) < 0.6, labels, rng.integers(0, k, n))
    return dict(labels=labels.tolist(), said=said.tolist(), classes=k, accuracy=accuracy_score(labels, said),
                macro_f1=f1_score(labels, said, average="macro"),
                mae=mean_absolute_error(labels, said), confusion=confusion_matrix(labels, said, labels=range(k)).tolist())


def ranks():
    "Two columns with ties"
    n = int(rng.integers(3, 60))
    a, b = rng.integers(0, 10, n), rng.integers(0, 10, n)
    return dict(a=a.tolist(), b=b.tolist(), spearman=float(spearmanr(a, b).statistic))


def overlap():
    "Two texts; ROUGE-1 is the overlap of words, each counted as often as it stands in both"
    said, truth = (" ".join(rng.choice(words, int(rng.integers(1, 8)))) for _ in range(2))
    kept = [" ".join({"two": "2"}.get(w, w) for w in t.split() if w != "the") for t in (said, truth)]
    found = RougeScorer(["rouge1"]).score(kept[1], kept[0])["rouge1"]
    return dict(said=said, truth=truth, recall=found.recall, f1=found.fmeasure)


def mean():
    "Skewed values, and SciPy's percentile bootstrap of their mean"
    x = rng.exponential(size=int(rng.integers(20, 300)))
    found = bootstrap((x,), np.mean, method="percentile", n_resamples=20000, random_state=0).confidence_interval
    return dict(values=x.tolist(), low=found.low, high=found.high)


def shares():
    n = int(rng.integers(1, 600))
    k = int(rng.integers(0, n + 1))
    return dict(k=k, n=n, ci95=list(map(float, proportion_confint(k, n, method="wilson"))))


def flips():
    gained, lost = map(int, rng.integers(0, 40, 2))
    return dict(gained=gained, lost=lost, p=float(mcnemar([[5, gained], [lost, 5]], exact=True).pvalue))


if __name__ == "__main__":
    made = dict(versions={n: version(n) for n in ("numpy", "scipy", "scikit-learn", "statsmodels", "rouge-score")},
                classes=[classes() for _ in range(30)], ranks=[ranks() for _ in range(30)],
                overlap=[overlap() for _ in range(100)], mean=[mean() for _ in range(5)], shares=[shares() for _ in range(60)],
                flips=[flips() for _ in range(60)])
    path = Path(__file__).resolve().parent.parent / "tests" / "reference_metrics.json"
    path.write_text(json.dumps(made) + "\n")
    print(path.name, *made["versions"].items())
