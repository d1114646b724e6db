"""The pages say what the code does: links, commands, arguments, parameters, topics, messages."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*DOCS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "demo/README.md"))]
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))
# Of a lifecycle node and of rclpy, below the node's name.
STANDARD = {"change_state", "get_state", "transition_event", "get_parameters", "set_parameters"}
# What other programs say, quoted in the page of troubles.
FOREIGN = {
    "A module that was compiled using NumPy 1.x cannot be run in NumPy 2",
    "error: option --editable not recognized",
    "cannot locate rosdep definition",
}
# Commands and settings, which other tests of this file look at.
COMMAND = re.compile(r"^(ros2|rosdep|pip|python|coopnet|scripts|import|colcon)\b|[:=]=|^\w+: ")

names = [path.relative_to(ROOT).as_posix() for path in PAGES]


def ros(module: str) -> ModuleType:
    """A module of coopnet_ros; skips where rclpy is missing."""
    pytest.importorskip("rclpy", reason="rclpy is not installed: run scripts/setup.sh")
    return importlib.import_module(f"coopnet_ros.{module}")


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def code(text: str) -> str:
    """Everything that a page shows as code: blocks and spans, one per line."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = prose(text)
    indented = re.findall(r"^    (.*)$", rest, re.MULTILINE)
    spans = re.findall(r"`([^`\n]+)`", rest)
    return "\n".join((*fenced, *indented, *spans)).replace("\\\n", " ")


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
        found.add(kept.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("name", names)
def test_relative_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text("utf-8")))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link


def test_the_readme_leads_to_every_page() -> None:
    todo, reached = [ROOT / "README.md"], set()
    while todo:
        page = todo.pop()
        reached.add(page)
        links = re.findall(r"\]\(([\w./]+\.md)", page.read_text("utf-8"))
        todo += [path for link in links if (path := (page.parent / link).resolve()) not in reached]
    assert reached >= set(DOCS)


def launch_arguments(file: str) -> set[str]:
    """Arguments of a launch file: its own, and those of the file that the others include."""
    found = set()
    for path in {ROOT / "launch" / file, ROOT / "launch" / "coopnet.launch.py"}:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Tuple):
                found |= {e.elts[0].value for e in node.value.elts if isinstance(e, ast.Tuple)}  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("name", names)
def test_launch_commands_have_the_file_and_its_arguments(name: str) -> None:
    text = code((ROOT / name).read_text("utf-8"))
    for file, rest in re.findall(r"ros2 launch coopnet_ros (\S+)([^\n#]*)", text):
        assert (ROOT / "launch" / file).is_file(), file
        assert set(re.findall(r"(\w+):=", rest)) <= launch_arguments(file)


@pytest.mark.parametrize("name", names)
def test_executables_and_their_parameters_exist(name: str) -> None:
    text = code((ROOT / name).read_text("utf-8"))
    scripts = re.findall(r'"(\w+) = coopnet', (ROOT / "setup.py").read_text("utf-8"))
    for executable, rest in re.findall(r"ros2 run coopnet_ros (\w+)([^\n]*)", text):
        assert executable in scripts
        given = set(re.findall(r"-p (\w+):=", rest))
        if given:
            tables = {"perception_node": "parameters", "replay_node": "replay_node"}
            module = ros(tables[executable])
            table = module.TABLE if executable == "perception_node" else module.PARAMETERS
            assert given <= {parameter.name for parameter in table}
    for parameter in re.findall(r"ros2 param (?:get|set|describe) /\S*coopnet ([a-z]\S*)", text):
        assert parameter in {p.name for p in ros("parameters").TABLE}


def settings_in(text: str) -> Iterator[tuple[str, object]]:
    """Parameters that a YAML text gives to nodes called coopnet, in whatever namespace."""

    def walk(tree: object) -> Iterator[tuple[str, object]]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                if key == "coopnet" and isinstance(value, dict):
                    yield from value["ros__parameters"].items()
                else:
                    yield from walk(value)

    yield from walk(yaml.safe_load(text))


def yaml_texts() -> Iterator[tuple[str, str]]:
    for path in EXAMPLES:
        yield path.name, path.read_text("utf-8")
    for page in PAGES:
        for block in re.findall(
            r"^```yaml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        ):
            yield page.name, block


def test_parameters_in_yaml_exist_and_have_the_right_type() -> None:
    table = {parameter.name: parameter for parameter in ros("parameters").TABLE}
    seen = 0
    for where, text in yaml_texts():
        for name, value in settings_in(text):
            if name == "qos_overrides":
                continue
            assert name in table, f"{where}: {name}"
            assert type(value) is type(table[name].default), f"{where}: {name}"
            assert not table[name].choices or value in table[name].choices, f"{where}: {name}"
            seen += 1
    assert seen > 5


def topics() -> set[str]:
    """What stands below the node's name: topics and services."""
    source = "".join(path.read_text("utf-8") for path in (ROOT / "coopnet_ros").glob("*.py"))
    services = re.findall(r'create_service\(\s*\w+,\s*"~/(\w+)"', source)
    assert "reset" in services
    return {name.removeprefix("~/") for name in ros("outputs").TOPICS} | {*services, *STANDARD}


@pytest.mark.parametrize("name", [*names, *(p.relative_to(ROOT).as_posix() for p in EXAMPLES)])
def test_topics_exist(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    text = code(text) if name.endswith(".md") else text
    # The first may also be a folder of the home directory where it is part of a command.
    found = re.findall(r"^~/([a-z][\w/]*)$", text, re.MULTILINE)
    found += re.findall(r"(?<![\w.~-])/(?:\w+/)*coopnet/([a-z][\w/]*)", text)
    assert set(found) <= topics()


def source_strings() -> str:
    """All strings of the packages, with a star for what is filled in."""
    texts = []
    for folder in ("coopnet_core", "coopnet_ros"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
                elif isinstance(node, ast.JoinedStr):
                    parts = (p.value if isinstance(p, ast.Constant) else "*" for p in node.values)
                    texts.append("".join(map(str, parts)))
    return "\n".join(texts)


def test_troubleshooting_quotes_messages_of_the_node() -> None:
    page = prose((ROOT / "docs" / "troubleshooting.md").read_text("utf-8"))
    spans = re.findall(r"``(.+?) ``|`([^`\n]+)`", page)
    quotes = {a or b for a, b in spans if " " in (a or b)}
    quotes = {quote for quote in quotes - FOREIGN if not COMMAND.search(quote)}
    assert len(quotes) > 20
    said = source_strings()
    for quote in quotes:
        # What stands for something: dots, capitals, numbers and topics.
        pieces = re.split(r"\.\.\.|/\S+|\bA-?xB\b|\bCxD\b|\b[A-Z]+\b|[\d.]+|<-|->|[:,;]", quote)
        for piece in (p.strip("% ") for p in pieces):
            words = piece.split()
            readings = [piece]  # as it stands, or with one word that is filled in
            readings += [" ".join((*words[:i], "*", *words[i + 1 :])) for i in range(len(words))]
            is_said = any(reading in said for reading in readings)
            assert len(piece) < 4 or is_said, f"'{piece}' of '{quote}'"
