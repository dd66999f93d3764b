"""Compares the audits of many evaluations, methods by questions.

python -m experiments.audits --evaluations=runs/audit --out=results/audit
"""

from pathlib import Path

from absl import flags

from experiments import cli

_EVALUATIONS = cli.folder_flag(
    "evaluations", "folder with models that experiments.eval was run on, at any depth", required=True
)
_OUT = cli.folder_flag("out", "folder for results.json, table.md and frontier.svg", required=True)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "replace the results in --out")


def main() -> None:
    from osp_jax.report.audits import audits_markdown, condensed, frontier_figure
    from osp_jax.runtime import records
    from osp_jax.runtime.errors import InputError
    from osp_jax.runtime.overwriting import check_results
    from osp_jax.runtime.workdir import adding, check_writable, load_evaluation, write_json, write_text

    folder, out = Path(_EVALUATIONS.value), Path(_OUT.value)
    names = "results.json", "table.md", "frontier.svg"
    check_results(out, names, _OVERWRITE.value)
    paths = sorted(folder.rglob("eval.json"))
    found = {path: load_evaluation(path.parent) for path in paths}
    audited = {path: evaluation for path, evaluation in found.items() if evaluation.get("audit")}
    if not audited:
        raise InputError(
            f"{folder} holds no audit of an unlearned model; make one: "
            "python -m experiments.eval --workdir=U --reference=R --audit=full --shadows=S"
        )
    first = next(iter(audited))
    for path, evaluation in audited.items():
        if "retrained" not in evaluation:
            raise InputError(f"{path} has no retrained model to compare with; run experiments.eval with --reference")
        records.checked(evaluation, records.Audited, path)
        for what in ("dataset", "model"):
            if evaluation[what] != audited[first][what]:
                raise InputError(f"{path} is of another {what} than {first}; put them into folders of their own")
        if evaluation["audit"]["settings"] != audited[first]["audit"]["settings"]:
            raise InputError(
                f"{path} was audited with other settings than {first}; evaluate both with the same --audit"
            )
    check_writable(out, 10**7)
    results = condensed(list(audited.values()))
    with adding(out, names) as place:
        write_json(place / "results.json", results)
        write_text(place / "table.md", audits_markdown(results))
        write_text(place / "frontier.svg", frontier_figure(results))
    print(f"{len(audited)} audits: {out / 'results.json'}, {out / 'table.md'}, {out / 'frontier.svg'}")


if __name__ == "__main__":
    cli.run(main, computes=False)
