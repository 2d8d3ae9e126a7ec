"""Our rewards beside those of five public projects, on real completions.

    python tools/logs.py peers FOLDER

FOLDER holds medvlm_r1_outputs and peer_vectors: completions of a radiology model with their truths, and
what the peers' own code said of them. Takes seconds. Writes nbs/logs/02_peers.csv."""
from pathlib import Path

from measure.common import read_jsonl, write_log

# The peers' keys in the stored results -> their names in the log
format_peers = {
    "easyr1_r1v_format": "EasyR1 r1v",
    "vlmr1_format": "VLM-R1",
    "r1v_format": "R1-V",
    "trl_think_format": "TRL think",
}
accuracy_peers = {"easyr1_r1v_accuracy": "EasyR1 r1v", "vlmr1_mcq": "VLM-R1"}
normalisation_peers = {"vlmevalkit_process_answer": "VLMEvalKit", "evalai_m4c": "MMF (EvalAI)"}


def main(
    folder: str,  # with the completions and the peers' results
):
    "A row for each kind of reward and peer"
    folder = Path(folder)
    completions = read_jsonl(folder / "medvlm_r1_outputs/completions.jsonl")
    # The same completions in the same order, with what the peers' code said of each.
    results = read_jsonl(folder / "peer_vectors/rewards_on_medvlm.jsonl")
    scored = [(row["completion"], peers) for row, peers in zip(completions, results, strict=True)]
    normalised = read_jsonl(folder / "peer_vectors/vqa_normalise.jsonl")
    rows = format_rows(scored) + accuracy_rows(scored) + normalisation_rows(normalised)
    write_log("02_peers.csv", rows)


def agreement(what, peer, compared, differing, differences):
    "A row of the log; `differences` says in words what lies behind those that differ"
    agree = len(compared) - len(differing)
    return dict(what=what, peer=peer, n=len(compared), agree=agree, differences=differences)


def format_rows(scored):
    "Is the completion of the wanted form?"
    from vlrlbook.rewards import format_reward
    rows = []
    for key, peer in format_peers.items():
        differing = [text for text, peers in scored if format_reward(text)["overall"] != peers[key]]
        # Looked up by hand: of the four only TRL's rule differs, on texts without an answer block.
        said = "TRL wants the think block only" if differing else ""
        rows.append(agreement("format", peer, scored, differing, said))
    return rows


def accuracy_rows(scored):
    "Is the answer right?"
    from vlrlbook.rewards import vqa_accuracy
    rows = []
    lettered = [(text, peers) for text, peers in scored if peers["gold"]]
    for key, peer in accuracy_peers.items():
        differing = []
        for text, peers in lettered:
            if vqa_accuracy(text, peers["gold"])["accuracy"] != peers[key]:
                differing.append(text)
        on_own_line = sum("<answer>\n" in text for text in differing)
        said = f"{on_own_line} answers on a line of their own, which it does not find" if on_own_line else ""
        rows.append(agreement("accuracy", peer, lettered, differing, said))
    return rows


def normalisation_rows(normalised):
    "What is left of an answer before two are compared?"
    from vlrlbook.rewards import normalise_answer
    rows = []
    for key, peer in normalisation_peers.items():
        differing = [row["raw"] for row in normalised if normalise_answer(row["raw"]) != row[key]]
        possessives = sum("'" in raw for raw in differing)
        tildes = len(differing) - possessives  # looked up by hand: nothing else is among them
        said = f"{possessives} possessives (we drop every apostrophe), {tildes} tilde"
        rows.append(agreement("normalisation", peer, normalised, differing, said))
    return rows
