"""What README.md and docs/ tell the reader to type or to look up is really there."""

import importlib.util
import pathlib
import re
import shlex

import pytest
from flax.traverse_util import flatten_dict

from configs import common
from flax_heads import cli, config_file

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "flax_heads/bundled_model/README.md"]
OUR_FILE = re.compile(
    r"(benchmarks|configs|data_pipeline|flax_heads|launch|notebooks|tests)/\w+\.\w+"
)
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FIELDS = flatten_dict(common.paper().to_dict(), sep=".")
SECTIONS = {field.split(".")[0] for field in FIELDS if "." in field}
PARSER = cli._parser()
COMMANDS = PARSER._subparsers._group_actions[0].choices
OPTIONS = {name: set(sub._option_string_actions) for name, sub in COMMANDS.items()}
TRAIN = "".join(
    (ROOT / "flax_heads" / f"{n}.py").read_text() for n in ("train", "config_file")
)
OPTIONS["train"] |= {"--" + f for f in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', TRAIN)}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def blocks(page, language):
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def spans(page):
    """What stands between single backticks, on one line each."""
    text = FENCE.sub("", page.read_text())
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def flags(words):
    found = (word.split("=")[0] for word in words if re.match(r"--?[a-z]", word))
    return [flag for flag in found if not flag.startswith("--config.")]


def words_of(command):
    """A shell command as words, without its comment and its leading VARIABLE=value."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    return words


def whole_commands(page):
    """The commands of shell blocks, a word list each."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := words_of(line):
                yield words


def all_commands(page):
    """Those of shell blocks, and those that the text names, perhaps abbreviated."""
    yield from whole_commands(page)
    for span in spans(page):
        if re.match(r"(flax-heads|python -m|make|[A-Z_]+=\S+ python) ", span):
            yield words_of(span)


def has_field(name):
    """Whether the config has the field, or the section of fields, `a.b.c`."""
    return any(f"{field}.".startswith(f"{name}.") for field in FIELDS)


def check_program(words):
    """A command of ours: its name, its flags; the config's fields are another test's."""
    for word in words:
        assert (ROOT / word).exists() or not OUR_FILE.fullmatch(word), word
    used = set(flags(words)) - {"-m"}
    known = used  # of other programs
    if words[0] == "flax-heads":
        known = OPTIONS.get(words[1])
        assert known, f"no command {words[1]}"
    elif words[:3] == ["python", "-m", "flax_heads.train"]:
        known = OPTIONS["train"]
    elif words[:2] == ["python", "-m"]:
        module = importlib.util.find_spec(words[2])
        assert module, f"no module {words[2]}"
        source = pathlib.Path(module.origin).read_text()
        for shared in re.findall(r"^from benchmarks import (.+)$", source, re.M):
            for name in shared.split(", "):
                source += (ROOT / "benchmarks" / f"{name}.py").read_text()
        known = set(re.findall(r'"(--[a-z-]+)"', source))
    elif words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets, f"no target {words[1]}"
    assert used <= known, f"{words[:3]}: no {used - known}"


@pages
def test_commands_and_their_flags_exist(page):
    for words in all_commands(page):
        check_program(words)
    for flag in (f for span in spans(page) for f in flags(span.split()[:1])):
        assert any(flag in known for known in OPTIONS.values()), flag


@pages
def test_commands_of_shell_blocks_are_complete(page, capsys):
    for words in whole_commands(page):
        if words[0] == "flax-heads" and words[1] != "train":
            try:
                _, rest = PARSER.parse_known_args(words[1:])
            except SystemExit:
                pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")
            assert words[1] in ("sweep", "info", "import") or not rest, rest


@pages
def test_config_fields_and_recipes_exist(page):
    code = spans(page) + [t for name in ("sh", "python") for t in blocks(page, name)]
    for text in code:
        for field in re.findall(r"(?<![\w.])config\.([a-z]\w*(?:\.\w+)*)", text):
            assert has_field(field) or field == "json", f"no config.{field}"
        for recipe in re.findall(r"(?<=--config[= ])configs/\w+\.py(?::[\w,]+)?", text):
            config_file.load(str(ROOT / recipe))
    for span in spans(page):  # fields may go without the word: `loss.match`
        field = re.fullmatch(r"([a-z]\w*)\.\w+(=\S*)?", span)
        if field and field[1] in SECTIONS:
            assert has_field(span.split("=")[0]), f"no field {span}"


def heading_anchors(path):
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t).strip().lower().replace(" ", "-") for t in titles}


@pages
def test_links_files_and_names_resolve(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in heading_anchors(target), link
    for span in spans(page):
        assert (ROOT / span).exists() or not OUR_FILE.fullmatch(span), span
    for name in re.findall(r"\{py:\w+\}`([\w.]+)`", page.read_text()):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
