"""weight_files.py: each kind of file, written by its library or byte by byte."""

import collections
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from data_pipeline.errors import InputError
from flax_heads.weight_files import read_tensors

# A pickle of torch's without torch: what it names is written down as opcodes.
Name = collections.namedtuple("Name", "module name")
Call = collections.namedtuple("Call", "function arguments")
Stored = collections.namedtuple("Stored", "pid")
WithState = collections.namedtuple("WithState", "thing state")
ORDERED_DICT = Name("collections", "OrderedDict")


def opcodes(value):
    """Protocol 2, as torch writes it."""
    match value:
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return opcodes(function) + opcodes(arguments) + b"R"
        case Stored(pid):
            return opcodes(pid) + b"Q"
        case WithState(thing, state):
            return opcodes(thing) + opcodes(state) + b"b"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case dict():
            items = (opcodes(k) + opcodes(v) for k, v in value.items())
            return b"}(" + b"".join(items) + b"u"
        case bytes():  # a string that Python 2 wrote
            return b"U" + bytes([len(value)]) + value
        case _:
            return pickle.dumps(value, 2)[2:-1]


def pickled(value):
    return b"\x80\2" + opcodes(value) + b"."


def tensor(key, size, shape, strides, offset=0, kind="FloatStorage", view=()):
    pid = ("storage", Name("torch", kind), key, "cpu", size, *view)
    rest = (False, Call(ORDERED_DICT, ()))
    arguments = (Stored(pid), offset, shape, strides, *rest)
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), arguments)


def write_zip(path, content, buffers, compression=zipfile.ZIP_STORED, order="little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(content))
        archive.writestr("archive/byteorder", order)
        for key, values in buffers.items():
            archive.writestr(f"archive/data/{key}", values.tobytes())
        archive.writestr("archive/version", "3\n")


def write_legacy(path, content, buffers, little_endian=True):
    """Here a storage's persistent id has a sixth entry, its view of another one."""

    def lengthen(value):
        match value:
            case Stored(pid):
                return Stored((*pid, None)[:6])
            case Call(function, arguments):
                return Call(function, lengthen(arguments))
            case WithState(thing, state):
                return WithState(lengthen(thing), state)
            case dict():
                return {key: lengthen(inner) for key, inner in value.items()}
            case tuple() if not isinstance(value, Name):
                return tuple(map(lengthen, value))
        return value

    about = {"protocol_version": 1001, "little_endian": little_endian}
    parts = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, about)]
    parts += [pickled(lengthen(content)), pickle.dumps(list(buffers), 2)]
    for values in buffers.values():
        parts += [struct.pack("<q", values.size), values.tobytes()]
    path.write_bytes(b"".join(parts))


both_formats = pytest.mark.parametrize("write", [write_zip, write_legacy])


@both_formats
def test_tensors_of_a_buffer(tmp_path, write):
    """Offsets, strides, a shared buffer, a scalar, an empty one and a parameter."""
    values = np.arange(24, dtype="<f4")
    whole = tensor("0", 24, (4, 6), (6, 1))
    content = {
        "whole": whole,
        "transposed": tensor("0", 24, (6, 4), (1, 6)),
        "column": tensor("0", 24, (4,), (6,), offset=2),
        "scalar": tensor("0", 24, (), (), offset=23),
        "empty": tensor("0", 24, (0, 3), (3, 1)),
        "parameter": Call(
            Name("torch._utils", "_rebuild_parameter"),
            (whole, True, Call(ORDERED_DICT, ())),
        ),
        b"python2": tensor("0", 24, (2,), (1,)),
    }
    write(tmp_path / "a.pth", content, {"0": values})
    tensors = read_tensors(tmp_path / "a.pth")
    expected = {
        "whole": values.reshape(4, 6),
        "transposed": values.reshape(4, 6).T,
        "column": values[2::6],
        "scalar": values[23],
        "empty": np.zeros((0, 3)),
        "parameter": values.reshape(4, 6),
        "python2": values[:2],
    }
    assert tensors.keys() == expected.keys()
    for name, array in expected.items():
        assert tensors[name].shape == array.shape
        np.testing.assert_array_equal(tensors[name], array)


@both_formats
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", "<f8"),
        ("HalfStorage", "<f2"),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", "<i8"),
        ("IntStorage", "<i4"),
        ("ShortStorage", "<i2"),
        ("CharStorage", "i1"),
        ("ByteStorage", "u1"),
        ("BoolStorage", "?"),
    ],
)
def test_types(tmp_path, write, kind, dtype):
    values = np.array([0, 1, 1, 0, 1, 0], dtype)
    content = {"a": tensor("7", 6, (2, 3), (3, 1), kind=kind)}
    write(tmp_path / "a.pt", content, {"7": values})
    array = read_tensors(tmp_path / "a.pt")["a"]
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, values.reshape(2, 3))


@both_formats
def test_inner_dicts(tmp_path, write):
    one = tensor("0", 2, (2,), (1,))
    state = Call(ORDERED_DICT, ((("conv.weight", one), ("conv.bias", one)),))
    content = {
        "state_dict": WithState(state, {"_metadata": {"": {"version": 1}}}),
        "ema": {"conv.weight": one, "steps": 3, "deeper": {"a": one}},
        "epoch": 12,
        "name": "a run",
    }
    write(tmp_path / "a.pth", content, {"0": np.float32([1, 2])})
    tensors = read_tensors(tmp_path / "a.pth")
    assert tensors.keys() == {"conv.weight", "conv.bias", "ema.conv.weight"}


def test_view_of_a_legacy_buffer(tmp_path):
    view = (("view", 4, 3),)
    content = {"a": tensor("0", 10, (2,), (1,), offset=1, view=view)}
    write_legacy(tmp_path / "a.pth", content, {"0": np.arange(10, dtype="<f4")})
    np.testing.assert_array_equal(read_tensors(tmp_path / "a.pth")["a"], [5, 6])


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_files_of_torch(tmp_path, new):
    torch = pytest.importorskip("torch")
    base = torch.randn(6, 8)
    state = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)
    ).state_dict()
    state |= {
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "transposed": base.T,
        "window": base[1:4, ::2],
        "parameter": torch.nn.Parameter(base),
        "mask": base > 0,
    }
    path = tmp_path / "a.pth"
    content = {"model": state, "optimizer": {"lr": 0.1, "state": {}}, "step": 3}
    torch.save(content, path, _use_new_zipfile_serialization=new)
    tensors = read_tensors(path)
    assert tensors.keys() == state.keys()
    for name, value in state.items():
        if name == "bfloat16":
            assert tensors[name].dtype == ml_dtypes.bfloat16
            value = value.float()
        value = value.detach().numpy()
        np.testing.assert_array_equal(tensors[name].astype(value.dtype), value)


def expect_error(path, match, reason="bad_weights"):
    with pytest.raises(InputError, match=match) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert caught.value.reason == reason


class Evil:
    """Unpickled by `pickle.load` it makes a file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["zip", "legacy", "magic"])
@pytest.mark.parametrize("kind", ["system", "eval"])
def test_malicious_files_run_nothing(tmp_path, place, kind):
    loot = tmp_path / "loot"
    evil = {
        "system": Evil(os.system, f"touch {loot}"),
        "eval": Evil(eval, f"open({str(loot)!r}, 'w').close()"),
    }[kind]
    attack = pickle.dumps({"state_dict": evil}, 2)
    pickle.loads(attack)
    assert loot.exists()  # the attack works on others
    loot.unlink()
    path = tmp_path / "a.pth"
    if place == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", attack)
    elif place == "legacy":
        write_legacy(path, {}, {})
        path.write_bytes(path.read_bytes().replace(pickled({}), attack))
    else:
        path.write_bytes(attack)
    name = {"system": r"(posix|nt)\.system", "eval": r"(__builtin__|builtins)\.eval"}
    expect_error(path, f"names {name[kind]}", "unsafe_weights")
    assert not loot.exists()


@both_formats
def test_a_file_changes_nothing_of_ours(tmp_path, write):
    """A pickle may also set attributes, of what it was given and of its results."""
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    one = tensor("0", 2, (2,), (1,))
    poisoned = WithState(rebuild, (None, {"__defaults__": (0, (9,), (0,))}))
    content = {"a": Call(ORDERED_DICT, ((("x", poisoned),),)), "b": one}
    write(tmp_path / "a.pth", content, {"0": np.float32([1, 2])})
    np.testing.assert_array_equal(read_tensors(tmp_path / "a.pth")["b"], [1, 2])
    for target in (ORDERED_DICT, Name("torch", "FloatStorage"), one):
        content = {"a": WithState(target, (None, {"get": 1})), "b": one}
        write(tmp_path / "b.pth", content, {"0": np.float32([1, 2])})
        expect_error(tmp_path / "b.pth", "broken")
    short = Call(rebuild, (one.arguments[0],))
    write(tmp_path / "c.pth", {"a": short}, {"0": np.float32([1, 2])})
    expect_error(tmp_path / "c.pth", "broken")


@both_formats
@pytest.mark.parametrize(
    ("shape", "strides", "offset", "size"),
    [
        ((7,), (1,), 0, 6),  # longer than its buffer
        ((2, 3), (4, 1), 0, 6),  # the last row begins in it, and ends outside
        ((2,), (1,), 5, 6),
        ((2,), (1,), -1, 6),
        ((2,), (-1,), 3, 6),
        ((-2,), (1,), 0, 6),
        ((10**12,), (0,), 0, 6),  # four terabytes from four bytes
        ((0, 10**12, 10**12), (0, 0, 0), 0, 6),
        ((7,), (1,), 0, 7),  # a buffer that says it is longer than it is
        ((1.0,), (1,), 0, 6),
        ((2, 3), (1,), 0, 6),
    ],
)
def test_tensors_outside_their_buffer(tmp_path, write, shape, strides, offset, size):
    content = {"a": tensor("0", size, shape, strides, offset)}
    write(tmp_path / "a.pth", content, {"0": np.zeros(6, "<f4")})
    expect_error(tmp_path / "a.pth", "a.pth: broken")


@both_formats
def test_damaged_files(tmp_path, write):
    """Cut anywhere, or with any byte changed: an error of ours, or tensors."""
    path, damaged = tmp_path / "a.pth", tmp_path / "b.pth"
    content = {"a": tensor("0", 6, (2, 3), (3, 1)), "b": tensor("1", 2, (2,), (1,))}
    write(path, content, {"0": np.ones(6, "<f4"), "1": np.ones(2, "<f4")})
    whole = path.read_bytes()
    for end in range(0, len(whole), 3):
        damaged.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"b\.pth: "):
            read_tensors(damaged)
    rng = np.random.default_rng(0)
    errors = 0
    for at in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[at] ^= int(rng.integers(1, 256))
        damaged.write_bytes(changed)
        try:
            read_tensors(damaged)
        except InputError:
            errors += 1
    assert errors > len(whole) / 12


def test_a_few_bytes_do_not_fill_the_memory(tmp_path):
    """C's unpickler makes room for 2^32 entries of its memo, and touches it all."""
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\2}r" + b"\xff" * 4 + b".")
    expect_error(path, "not PyTorch's")


def test_refused_variants_of_torch(tmp_path):
    content, buffers = {"a": tensor("0", 2, (2,), (1,))}, {"0": np.zeros(2, "<f4")}
    path = tmp_path / "a.pth"
    write_zip(path, content, buffers, compression=zipfile.ZIP_DEFLATED)
    expect_error(path, "compressed")
    write_zip(path, content, buffers, order="big")
    expect_error(path, "big-endian")
    write_legacy(path, content, buffers, little_endian=False)
    expect_error(path, "big-endian")
    write_zip(path, [1, 2], {})
    expect_error(path, "holds a list")
    write_zip(path, {"a": content["a"], "model": content}, buffers)
    expect_error(path, "two tensors are called a")
    write_zip(path, {"epoch": 3}, {})
    expect_error(path, "no tensors")
    write_zip(path, {"net": Call(Name("models.vgg", "VGG"), ())}, {})
    expect_error(path, r"models\.vgg\.VGG.*state_dict", "unsafe_weights")
    path.write_bytes(pickle.dumps(5, 2))
    expect_error(path, "not PyTorch's")


ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(4)}


def assert_same(tensors, arrays):
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)


def _asking_for(much):
    """Pickles of which the first bytes say that as many follow, which do not."""
    size = struct.pack("<Q", much)
    for opcode in (pickle.BYTEARRAY8, pickle.BINBYTES8, pickle.FRAME):
        yield pickle.PROTO + b"\5" + opcode + size + b"."


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    h5py = pytest.importorskip("h5py")
    much = 2**28
    for i, text in enumerate(_asking_for(much)):
        (tmp_path / f"{i}.pth").write_bytes(text)
    np.savez_compressed(tmp_path / "many.npz", a=np.zeros(much // 4, np.float32))
    with h5py.File(tmp_path / "unwritten.h5", "w") as file:
        file.create_dataset("a", (much // 4,), np.float32, chunks=(2**16,))
    for path in tmp_path.iterdir():
        assert path.stat().st_size < 2**20
        tracemalloc.start()
        with pytest.raises(InputError, match=path.name):
            read_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


def test_a_pickle_in_a_zip_is_not_compressed(tmp_path):
    """It might unpack to opcodes without end."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    expect_error(tmp_path / "a.pth", "compressed")


def test_a_zip_without_tensors_is_no_broken_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"x")
    expect_error(tmp_path / "a.keras", "not a file of weights")


def test_npz(tmp_path):
    np.savez(tmp_path / "a.bin", **ARRAYS)  # adds .npz
    (tmp_path / "a.bin.npz").rename(tmp_path / "a.bin")
    assert_same(read_tensors(tmp_path / "a.bin"), ARRAYS)
    np.savez(tmp_path / "b.npz", a=np.array([None]))
    expect_error(tmp_path / "b.npz", "broken")


def test_safetensors(tmp_path):
    numpy_format = pytest.importorskip("safetensors.numpy")
    arrays = ARRAYS | {"b": np.ones(3, ml_dtypes.bfloat16)}
    path = tmp_path / "a.safetensors"
    numpy_format.save_file(arrays, path)
    assert_same(read_tensors(path), arrays)
    path.write_bytes(path.read_bytes()[:-1])
    expect_error(path, "broken")


@pytest.mark.parametrize(
    "names",
    [
        ("block1_conv1/block1_conv1_W_1:0", "block1_conv1/block1_conv1_b_1:0"),
        ("block1_conv1/block1_conv1/kernel:0", "block1_conv1/block1_conv1/bias:0"),
        ("layers/conv2d/vars/0", "layers/conv2d/vars/1"),
    ],
)
def test_keras(tmp_path, names):
    h5py = pytest.importorskip("h5py")
    arrays = {names[0]: np.ones((3, 3, 3, 4), "<f4"), names[1]: np.arange(4.0)}
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["labels"] = "not a number"
    assert_same(read_tensors(path), arrays)
    path.write_bytes(path.read_bytes()[:-100])
    expect_error(path, "a.h5: ")


def test_keras_file_cannot_fetch_another(tmp_path):
    h5py = pytest.importorskip("h5py")
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(4, "<f4").tobytes())
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (4,), "<f4", external=[(str(secret), 0, 16)])
    expect_error(path, "another file")
    layout = h5py.VirtualLayout((4,), "<f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)
    expect_error(path, "another file")


def test_missing_libraries_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for name, start in [("a.h5", b"\x89HDF\r\n\x1a\n"), ("a", bytes(8) + b"{}")]:
        (tmp_path / name).write_bytes(start)
        extra = r'pip install "flax-heads\[eval\]"'
        expect_error(tmp_path / name, extra, "missing_library")


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>\n<p>404", b"\x89PNG\r\n\x1a\n", b"version https"]
)
def test_other_files(tmp_path, content):
    (tmp_path / "vgg19.pth").write_bytes(content)
    expect_error(tmp_path / "vgg19.pth", "not a file of weights that can be read")


def test_unreadable_files(tmp_path):
    expect_error(tmp_path / "absent.pth", "cannot be read")
    expect_error(tmp_path, "cannot be read")
