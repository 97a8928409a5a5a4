"""Do the documents for people say what is true of the files and commands that there are?"""

import ast
import re
from pathlib import Path

import pytest
from mapo_studio.trainer.cli.main import VERBS
from mapo_studio.trainer.config.run_config import RunConfig
from mapo_studio.trainer.preferences.io.detect_layout import LAYOUTS, open_pairs
from PIL import Image
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    file
    for room in ("trainer", "web", "comfy_nodes", "scripts")
    for file in sorted((ROOT / room).rglob("*.py"))
    if "versions" not in file.parts
]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IMPORT_FLAGS = ("--dataset", "--layout", "--chosen-pattern", "--rejected-pattern", "--annotator")
STUDIO_FLAGS = ("--root", "--listen", "--auth-file", "--hash-password")
PLAN_FLAGS = ("--preset", "--family", "--memory")
EVIDENCE_FLAGS = ("--lora", "--prompts", "--no-with-base", "--standing", "--scorer")
TARGETS_FLAGS = ("--into", "--lora", "--rejects")
COMMAND = re.compile(r"(?:\./mapo\.sh|mapo\.bat) ([a-z-]+)([^`\n#]*)")
FLAG = re.compile(r"`(--[a-z][a-z-]*)[^`]*`")


def flags(model=RunConfig):
    """Of every setting, as the command line writes it."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flags(field.annotation)
        else:
            renamed = [one.name for one in field.metadata if getattr(one, "name", None)]
            yield "--" + (renamed[0] if renamed else name).replace("_", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_flags_exist(document):
    faces = (*IMPORT_FLAGS, *STUDIO_FLAGS, *PLAN_FLAGS, *EVIDENCE_FLAGS, *TARGETS_FLAGS)
    known = {*flags(), *faces, "--workspace", "--json", "--help"}
    for verb, rest in COMMAND.findall(document.read_text(encoding="utf-8")):
        assert verb in {*VERBS, "test"}
        assert verb == "test" or set(re.findall(r"--[a-z][a-z-]*", rest)) <= known
    flags_in_text = FLAG.findall(document.read_text(encoding="utf-8"))
    assert set(flags_in_text) <= known


def links_in(document):
    return re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8"))


def test_commands_flags_and_links_are_found_where_there_are_some():
    """Else the two tests around this one would pass on any document."""
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    assert sum(bool(COMMAND.search(text)) for text in texts) >= 5
    assert sum(bool(FLAG.search(text)) for text in texts) >= 5
    assert {"README.md", "recipe.md", "evidence.md"} <= {document.name for document in DOCUMENTS if links_in(document)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    links = links_in(document)
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_map_names_every_folder_and_only_files_that_are_there():
    """Whole paths: several files share a name. What a file answers stands in its own first line."""
    words = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The map")[2]
    named = set(re.findall(r"`((?:trainer|web|comfy_nodes|scripts|tests|benchmarks)/[\w/.-]*)`", words))
    folders = {f"{file.parent.relative_to(ROOT).as_posix()}/" for file in MODULES}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert folders - named == set()


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_module_says_in_its_first_line_what_it_is(file):
    text = file.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) or ""
    assert said or file.name == "__init__.py", "a module without a docstring"
    assert file.name == "__init__.py" or len(said.split("\n")[0]) > 15


def test_the_first_layout_of_the_readme_is_read(tmp_path):
    for side, colour in (("w", "red"), ("l", "blue")):
        (tmp_path / "my-pairs" / side).mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(tmp_path / "my-pairs" / side / "001.png")
    (tmp_path / "my-pairs" / "w" / "001.txt").write_text("its prompt")
    [pair] = open_pairs(tmp_path / "my-pairs").load().pairs
    assert (pair.prompt, pair.chosen.label, pair.rejected.label) == (
        "its prompt",
        "my-pairs/w/001.png",
        "my-pairs/l/001.png",
    )


def test_every_layout_is_described():
    described = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    assert [name for name in LAYOUTS if f"| `{name}` |" not in described] == []
