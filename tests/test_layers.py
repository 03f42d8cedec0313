"""Imports point down: which room may import which, read from the source."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "dlink_adapter"
# From the top down. A room may import itself and what stands below its own line.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["recipe_source"],
    ["soundscapes"],
    ["captioner", "attachment", "caption_training", "captioner_config"],
    ["extract"],
    ["training"],
    ["refine"],
    ["registry"],
    ["token_bridge"],
    ["baselines"],
    ["diffusion_link"],
    ["bridge"],
    ["measure"],
    ["data"],
    ["stages"],
    ["folders"],
    ["files", "extras", "versions"],
    ["__init__"],
]
PLACE = {room: place for place, rooms in enumerate(LAYERS) for room in rooms}
# `Bridge.fit` reaches up to the one way to fit, when it is called; aliases of former places reach to their rooms.
ALLOWED = {("bridge", "training"), ("caption_training", "captioner"), ("captioner_config", "captioner")}


def room(module: str) -> str:
    return module.removeprefix("dlink_adapter").lstrip(".").partition(".")[0] or "__init__"


def arrows() -> set[tuple[str, str]]:
    """(room, room that it imports), of imports anywhere in a file."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        here = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "dlink_adapter":
                names = [f"dlink_adapter.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found |= {(here, room(name)) for name in names if name.split(".")[0] == "dlink_adapter"}
    return found


def test_every_room_has_its_place():
    assert {file.relative_to(PACKAGE).with_suffix("").parts[0] for file in PACKAGE.rglob("*.py")} == set(PLACE)


def test_imports_point_down():
    known = {(here, there) for here, there in arrows() if there in PLACE and here != there}
    upwards = {(here, there) for here, there in known if PLACE[there] <= PLACE[here]}
    assert upwards == ALLOWED


def test_the_command_line_alone_knows_the_recipes_and_no_room_knows_integrations():
    assert {(here, there) for here, there in arrows() if there in ("recipes", "integrations")} == {("cli", "recipes")}


def test_no_room_imports_a_public_name_from_the_top():
    """Such an import would hide which room it points to."""
    places = {*PLACE, "recipes", "integrations", "__version__"}
    assert not {(here, there) for here, there in arrows() if there not in places}
