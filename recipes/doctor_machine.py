"""What `dlink doctor` says of an installation: devices, Java, extras, the hub, and whether a bridge can be fitted."""

import shutil
import subprocess
from importlib.metadata import metadata, requires
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from huggingface_hub import constants
from packaging.requirements import Requirement

from dlink_adapter import FitConfig, load_bridge, new_bridge
from dlink_adapter.versions import installed

PACKAGE = "dlink-adapter"
FOR_DEVELOPERS = {"bench", "test", "dev"}
SECONDS = 3  # for the hub to answer


def devices() -> dict[str, str]:
    """The devices that torch sees, by name."""
    found = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return found | ({"mps": "available"} if torch.backends.mps.is_available() else {})


def java() -> str | None:
    """The version line of Java, which METEOR, SPICE and the tokenizer ptb need; None where there is none."""
    if shutil.which("java") is None:
        return None
    return subprocess.run(["java", "-version"], capture_output=True, text=True).stderr.partition("\n")[0]


def extras() -> list[str]:
    """The extras of the package, without those of its developers."""
    return [extra for extra in metadata(PACKAGE).get_all("Provides-Extra", []) if extra not in FOR_DEVELOPERS]


def unmet(extra: str | None) -> list[str]:
    """The requirements of an extra, or those of the package itself, that this environment does not meet."""
    found: dict[str, None] = {}
    for requirement in map(Requirement, requires(PACKAGE) or []):
        marker = requirement.marker
        if (extra is None) != (marker is None) or (marker and not marker.evaluate({"extra": extra or ""})):
            continue
        if requirement.name == PACKAGE:
            found |= dict.fromkeys(name for of_extra in sorted(requirement.extras) for name in unmet(of_extra))
        elif not _is_met(requirement):
            found[f"{requirement.name}{requirement.specifier}"] = None
    return [*found]


def _is_met(requirement: Requirement) -> bool:
    version = installed(requirement.name)
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def hub_state() -> str:
    """Where models are downloaded from, if they are."""
    return "offline, by HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else constants.ENDPOINT


def hub_problem() -> list[str]:
    """Why the hub cannot be reached, if it cannot. Any answer counts, also one that refuses."""
    try:
        urlopen(constants.ENDPOINT, timeout=SECONDS).close()
    except HTTPError as error:
        error.close()
    except OSError as error:
        return [f"the hub at {constants.ENDPOINT} cannot be reached: {error}"]
    return []


def self_test() -> list[str]:
    """Fit a small bridge on random pairs, save and load it: what went wrong, if anything."""
    pairs = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(0)).unbind()
    bridge = new_bridge("diffusion_link", 16)
    try:
        with TemporaryDirectory() as folder:
            bridge.fit(pairs, config=FitConfig(steps=2, batch_size=16), out=folder, progress=False)
            loaded = load_bridge(folder)
    except Exception as error:  # whatever it is, it belongs in the report
        return [f"a small bridge cannot be fitted, saved and loaded: {type(error).__name__}: {error}"]
    same = torch.equal(*(of.map_rows(pairs[0], seed=0) for of in (bridge, loaded)))
    return [] if same else ["a small bridge gives other embeddings after it is saved and loaded"]
