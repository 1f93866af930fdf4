"""The page of a repository of plans on the Hub: for which model and budget, how sure, and pictures."""

from hyca_calib.report.steps import told_ratios
from hyca_runtime.integrations.hub import HubAddress
from hyca_runtime.integrations.plan_index import IndexedPlan, PlanIndex

MARK = "Written by `hyca push`; what is changed here is lost with the next one."


def plan_card(repo: str, index: PlanIndex) -> str:
    """``README.md`` of a repository.

    Args:
        repo: ``user/name``.
        index: what it has.
    """
    front = "---\nlibrary_name: hyca\ntags:\n- hyca\n- feature-caching\n- diffusion\n---\n"
    title = f"# Caching plans: {repo.partition('/')[2]}\n\n{MARK}\n"
    return "\n".join([front + "\n" + title, *(_of_plan(repo, plan) for plan in index.plans)])


def _of_plan(repo: str, plan: IndexedPlan) -> str:
    address = HubAddress(repo, file=plan.file, digest=plan.sha256[:12])
    lines = [f"## {plan.name}\n"]
    if plan.budget:
        lines.append(f"Asked for: {plan.budget}.\n")
    lines += ["| network | sampler | steps computed | cheaper | certificate |", "|---|---|---:|---:|---|"]
    for network in plan.networks:
        cells = (
            f"{network.component}: {network.transformer}, configuration `{network.config_digest[:12]}`",
            network.scheduler,
            f"{network.computed} of {network.steps}",
            told_ratios(network) or "not told",
            network.certificate or "none",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "```python",
        "from hyca_runtime import apply_plan, load_plan",
        "",
        f'session = apply_plan(pipe, load_plan("{address}", download=True))',
        "```",
        "",
        *(f"![{picture.rpartition('/')[2].partition('.')[0]}]({picture})\n" for picture in plan.pictures),
    ]
    return "\n".join(lines)
