"""Arrays and JSON that lie are refused, and no source opens a door to code."""

import ast
import pathlib
import zipfile

import numpy as np
import pytest

from data_pipeline.safe_files import inside, parse_json, read_json, read_npz

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = [
    path
    for folder in ("flax_heads", "data_pipeline", "configs", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def test_arrays_come_back_as_they_were_saved(tmp_path):
    arrays = {
        "matrix": np.arange(12.0).reshape(3, 4),
        "columns": np.asfortranarray(np.random.default_rng(0).normal(size=(5, 7))),
        "names": np.array(["ab", "cde"]),
        "none": np.zeros((0, 68, 2), np.float32),
        "one": np.array(3.5),
        "text": np.array("hello"),
        "big_endian": np.arange(3, dtype=">i2"),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        read = read_npz(tmp_path / "a.npz", 10_000)
        assert list(read) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype and read[name].flags.writeable
    assert list(read_npz(tmp_path / "a.npz", 10_000, ["one"])) == ["one"]
    with pytest.raises(ValueError, match="no array 'two'"):
        read_npz(tmp_path / "a.npz", 10_000, ["two"])


def _npy(descr: str, shape: str, content: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"
    size = len(header).to_bytes(2, "little")
    return b"\x93NUMPY\x01\x00" + size + header.encode() + content


@pytest.mark.parametrize(
    "content, message",
    [
        (_npy("'|O'", "(1,)", b"\x80\x04N."), "not plain numbers"),
        (_npy("[('a', '<f4')]", "(1,)", bytes(4)), "not plain numbers"),
        (_npy("'<f4'", "(1000000000000,)"), "is said to take 4000000000000 bytes"),
        (_npy("'<f4'", "(2,)", bytes(7)), "is said to take 8 bytes"),
        (_npy("'<f4'", "(2,)", bytes(9)), "is said to take 8 bytes"),
        (_npy("'<f4'", "(-1, -1)", bytes(4)), "shape"),
        (_npy("'<f4'", "(" * 5000), "."),
        (b"\x93NUMPY\x07\x00", "version"),
        (b"no array", "magic"),
        (b"", "."),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "a.npz", 10**13)


def test_a_small_file_that_unpacks_to_much_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(30_000_000, np.uint8))
    assert path.stat().st_size < 50_000
    with pytest.raises(
        ValueError, match="unpacks to 30 MB, more than the limit of 1 MB"
    ):
        read_npz(path, 1_000_000)


def test_a_flipped_bit_and_a_cut_are_noticed(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(1000))
    good = path.read_bytes()
    for bad in (good[:4000] + b"\x01" + good[4001:], good[:-10], good[:4000], b""):
        path.write_bytes(bad)
        with pytest.raises(ValueError):
            read_npz(path, 10_000)


def test_members_of_one_name_or_outside_are_no_way_around(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", _npy("'<i1'", "(1,)", b"1"))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", _npy("'<i1'", "(1,)", b"2"))
    with pytest.raises(ValueError, match="two arrays of one name"):
        read_npz(path, 100)
    folder = tmp_path / "inner"
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("../x.npy", _npy("'<i1'", "(1,)", b"1"))
    assert read_npz(folder / "a.npz", 1000)["../x"] == [49]
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.npz", "a.npz", "inner"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "", "a\\b", "a\0"])
def test_names_from_files_stay_in_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="not the name of a file"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a.b-c") == tmp_path / "a.b-c"


def test_json_raises_value_errors_only(tmp_path):
    assert parse_json(b'{"a": [1, "\xc3\xa4"]}') == {"a": [1, "\u00e4"]}
    for bad in (b"", b"{", b"[" * 100_000, b"\xff", b"9" * 5000, b"[1,]"):
        (tmp_path / "a.json").write_bytes(bad)
        with pytest.raises(ValueError):
            read_json(tmp_path / "a.json")
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(2**26 + 1)  # takes no room on the disk
    with pytest.raises(ValueError, match="more than 67 MB"):
        read_json(tmp_path / "a.json")


# --- The sources

_UNPICKLERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
# Reads PyTorch's files by an unpickler of its own that can call nothing.
_ALLOWED = {"weight_files.py": {"pickle"}}
_TEXT = (ast.Constant, ast.JoinedStr, ast.BinOp)


def _name(node: ast.expr) -> str:
    """`a.b.c` of such an expression, else the last part that has a name."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _doors(path: pathlib.Path):
    """Lines of a source that could run what a file or a name says."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            names |= {(getattr(node, "module", None) or "").split(".")[0]}
            if names & (_UNPICKLERS - _ALLOWED.get(path.name, set())):
                yield node.lineno, f"imports {names}"
        if not isinstance(node, ast.Call):
            continue
        name = _name(node.func)
        keywords = {word.arg: word.value for word in node.keywords}
        constant = {
            k: v.value for k, v in keywords.items() if isinstance(v, ast.Constant)
        }
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            yield node.lineno, name
        if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
            yield node.lineno, name
        if "shell" in keywords and constant.get("shell") is not False:
            yield node.lineno, "shell"
        text = node.args and isinstance(node.args[0], _TEXT)
        if name.startswith("subprocess.") and text:
            yield node.lineno, "a command in one string"
        if "allow_pickle" in keywords and constant.get("allow_pickle") is not False:
            yield node.lineno, "allow_pickle"
        if name in ("np.load", "numpy.load") and "allow_pickle" not in keywords:
            yield node.lineno, "np.load without allow_pickle=False"
        if name == "torch.load" and constant.get("weights_only") is not True:
            yield node.lineno, "torch.load without weights_only=True"
        if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
            yield node.lineno, name
        if name.endswith((".extractall", ".extract")):
            yield node.lineno, "unpacks an archive into a folder"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_source_runs_what_a_file_says(path):
    assert not list(_doors(path))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import load",
        "eval(text)",
        "subprocess.run('ls ' + name)",
        "subprocess.run(f'ls {name}')",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=choice)",
        "torch.load(path)",
        "archive.extractall(folder)",
    ],
)
def test_the_look_for_doors_finds_them(tmp_path, line):
    (tmp_path / "a.py").write_text(line)
    assert list(_doors(tmp_path / "a.py"))
