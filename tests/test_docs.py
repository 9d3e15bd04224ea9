"""The Python blocks of README and docs run, page by page in order, each page as one program in an empty folder.

`python tests/test_docs.py` puts the present output of `thalweg init LJ38` into docs/input-file.md.
"""

import re
import shlex
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import thalweg
from thalweg import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def program(page: Path) -> str:
    """All Python blocks of a page, on the lines they have there, so that errors name the right line."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        for k, line in enumerate(block[1].splitlines()):
            lines[first + k] = line
    return "\n".join(lines).rstrip()


WITH_CODE = [page for page in PAGES if program(page)]


def test_pages_with_code_are_found():
    assert {"add-your-own.md", "am-i-done.md", "potentials.md"} <= {page.name for page in WITH_CODE}


#: Pages whose code takes long, of subjects that have fast tests of their own.
LONG = {"large-systems", "landscapes", "minimize", "dynamics", "filters", "potentials", "surrogates", "understand-a-landscape"}


@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] if p.stem in LONG else [], id=p.stem) for p in WITH_CODE]
)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"docs_{page.stem.replace('-', '_')}"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    exec(compile(program(page), page, "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_fences_are_closed(page):
    fences = re.findall(r"^\s*```.*$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) % 2 == 0


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}" in nav, f"{page.name} is not in mkdocs.yml"


INPUT_PAGE = ROOT / "docs" / "input-file.md"
WRITTEN_INPUT = re.compile(r"(<!-- thalweg init LJ38.*?-->\n```toml\n)(.*?)(```\n<!-- end -->)", re.DOTALL)


def written_input() -> str:
    """What `thalweg init LJ38` prints."""
    command = [sys.executable, "-m", "thalweg", "init", "LJ38"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() + "\n"


def test_every_room_is_in_the_table_of_rooms():
    text = (ROOT / "docs" / "how-it-works.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", text[text.index("## Rooms") :]))
    package = Path(thalweg.__file__).parent
    rooms = {p.stem for p in package.iterdir() if (p.suffix == ".py" or (p / "__init__.py").exists()) and p.stem[0] != "_"}
    assert rooms <= named


def test_input_page_shows_what_init_writes():
    block = WRITTEN_INPUT.search(INPUT_PAGE.read_text(encoding="utf-8"))
    assert block is not None
    assert block[2] == written_input(), "the input has changed: run `python tests/test_docs.py`"


def commands(page: Path) -> list[str]:
    """The thalweg commands in the shell blocks of a page, without comments and what stands before `&&`."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = [re.split(r"\s#|\s>", line.split("&& ")[-1])[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("thalweg ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_what_the_command_line_takes(page):
    for command in commands(page):
        arguments = shlex.split(command)[1:]
        if arguments[0] not in ("bench", "--help"):
            cli.parser().parse_args(arguments)


def test_commands_are_found():
    assert len(commands(ROOT / "docs" / "periodic-systems.md")) == 6
    assert commands(ROOT / "README.md")[0] == "thalweg search LJ38"


def test_toml_blocks_are_toml():
    for page in PAGES:
        for block in re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            tomllib.loads(block)


if __name__ == "__main__":
    text = INPUT_PAGE.read_text(encoding="utf-8")
    INPUT_PAGE.write_text(WRITTEN_INPUT.sub(lambda m: m[1] + written_input() + m[3], text), encoding="utf-8")
