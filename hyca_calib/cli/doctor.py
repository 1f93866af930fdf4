"""Whether the installation works: doctor."""

import typer

from hyca_calib.cli.command import command


@command
def doctor() -> None:
    """Examine the installation: packages, device, embedded model, runtime, storage. The exit code is 1 if one is ill.

    Example: [b]python -m hyca_calib doctor[/]
    """
    from hyca_calib.commands.doctor import examine

    findings = examine()
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{'ok  ' if finding.sound else 'BAD '} {finding.what:<{width}}  {finding.told}")
    raise typer.Exit(0 if all(finding.sound for finding in findings) else 1)
