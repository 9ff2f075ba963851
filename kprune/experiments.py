"""Where results go, and what a result record says about how it was made."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

PACKAGES = ("kprune", "torch", "transformers", "datasets")


def output_folder(name: str = "", outputs: str | Path | None = None) -> Path:
    """The folder for results of one kind, the same from any working directory.

    Args:
        name: of the folder inside `outputs`.
        outputs: another place for all results. By default the environment variable KPRUNE_OUTPUTS;
            without it `outputs/` of the checkout that the package runs from, or of the current
            directory where it is installed elsewhere.
    """
    outputs = outputs or os.environ.get("KPRUNE_OUTPUTS")
    if outputs:
        return Path(outputs).expanduser().resolve() / name
    checkout = Path(__file__).resolve().parents[1]
    home = checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()
    return home / "outputs" / name


def environment(device: torch.device | str = "cpu") -> dict[str, str | int | None]:
    """What a result depends on besides its parameters: versions, commit, device."""
    device = torch.device(device)
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """The checkout's commit, with a plus sign where files have changed since; None outside one."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
