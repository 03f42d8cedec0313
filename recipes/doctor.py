"""Look at this installation, and at folders of captioners, bridges and paired embeddings, for what is wrong.

dlink doctor
dlink doctor dlink-demo dlink-demo/embeddings/pairs --hub

Prints the versions and devices that a bug report needs and which extras lack what, and fits, saves and loads a small
bridge. Of each folder it says what it is: weights with NaN, pairs that are collapsed, swapped or shifted, and folders
of different encoders are named. The exit code is 1 where something is wrong.
"""

from json import dumps
from pathlib import Path
from typing import Any

from dlink_adapter.recipes.doctor_folders import look, strangers
from dlink_adapter.recipes.doctor_machine import devices, extras, hub_problem, hub_state, java, self_test, unmet
from dlink_adapter.versions import versions


def main(*folders: Path, hub: bool = False, json: bool = False) -> int:
    """Look for what is wrong.

    Args:
        folders: of captioners, bridges or paired embeddings; those given together should be of one encoder.
        hub: ask the model hub whether it can be reached.
        json: print JSON.
    """
    looked = {str(folder): look(folder) for folder in folders}
    problems = [f"dlink-adapter needs {requirement}" for requirement in unmet(None)]
    problems += [*(tested := self_test()), *(hub_problem() if hub else [])]
    problems += [f"{folder}: {problem}" for folder, of in looked.items() for problem in of["problems"]]
    problems += strangers(looked)
    seen = {
        "versions": versions(),
        "devices": devices(),
        "java": java(),
        "hub": hub_state(),
        "self-test": "failed" if tested else "passed",
        "missing": {extra: unmet(extra) for extra in extras()},
        "folders": looked,
        "problems": problems,
    }
    print(dumps(seen, indent=2) if json else _text(seen))
    return int(bool(problems))


def _text(seen: dict[str, Any]) -> str:
    facts = seen["versions"] | seen["devices"] | {name: seen[name] for name in ("java", "hub", "self-test")}
    lines = [f"{name:<18}{'not installed' if value is None else value}" for name, value in facts.items()]
    for extra, missing in seen["missing"].items():
        lack = f'lacks {", ".join(missing)}: pip install "dlink-adapter[{extra}]"'
        lines.append(f"{f'extra {extra}':<18}" + (lack if missing else "complete"))
    lines += [f"{folder}: {of['is']}" for folder, of in seen["folders"].items()]
    lines += ["", *([f"WRONG: {problem}" for problem in seen["problems"]] or ["nothing is wrong"])]
    return "\n".join(lines)
