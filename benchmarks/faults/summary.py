"""Tables of the trials' outcomes."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

HEADER = ["Fault", "Where", "Trials", "Bad", "Outcomes", "Slowest s"]


def rows(trials: Sequence[dict[str, Any]]) -> list[list[str]]:
    """One row per kind and place; `good` is None for a trial that did not hit, which is not counted."""
    hit = [trial for trial in trials if trial["good"] is not None]
    found = []
    for kind in dict.fromkeys(trial["kind"] for trial in hit):
        of_kind = [trial for trial in hit if trial["kind"] == kind]
        for place in dict.fromkeys(map(place_of, of_kind)):
            found.append(_row(kind, place, [trial for trial in of_kind if place_of(trial) == place]))
        found.append(_row(kind, "all", of_kind))
    return found


def place_of(trial: dict[str, Any]) -> str:
    return trial["name"].split("/")[1]


def _row(kind: str, place: str, trials: Sequence[dict[str, Any]]) -> list[str]:
    outcomes = Counter(trial["outcome"] for trial in trials)
    seconds = [trial["seconds"] for trial in trials if trial.get("seconds") is not None]
    bad = sum(not trial["good"] for trial in trials)
    told = ", ".join(f"{number} {outcome}" for outcome, number in outcomes.most_common())
    return [kind, place, str(len(trials)), str(bad), told, f"{max(seconds):.1f}" if seconds else "-"]


def text(trials: Sequence[dict[str, Any]]) -> str:
    """The table and the bad trials, for a terminal."""
    lines = [" | ".join(row) for row in [HEADER, *rows(trials)]]
    for trial in trials:
        if trial["good"] is False:
            lines.append(f"BAD {trial['name']}: {trial['outcome']}: {trial.get('command', '')[:300]}")
            lines.append(f"    {trial.get('message', '')[:300]!r}")
    return "\n".join(lines)


def markdown(results: dict[str, Any]) -> str:
    """The table of `docs/reliability.md`, from what `--json` wrote."""
    from osp_jax.report.tables import markdown_table

    made = results["provenance"]
    commits = sorted({trial["commit"][:12] + "+" * trial["commit"].endswith("+") for trial in results["trials"]})
    unfinished = "" if results["complete"] else " Not all trials were made."
    return (
        f"On {made['device']}, commit {', '.join(commits)}, `{made['command']}`:{unfinished}\n\n"
        + markdown_table(HEADER, rows(results["trials"]))
        + "\n"
        + _bad(results["trials"])
    )


def _bad(trials: Sequence[dict[str, Any]]) -> str:
    bad = [trial for trial in trials if trial["good"] is False]
    if not bad:
        return "No outcome is bad."
    told = [f"- `{trial['name']}`: {trial['outcome']}" for trial in bad]
    return f"Bad outcomes ({len(bad)}):\n\n" + "\n".join(told)
