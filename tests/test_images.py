"""Photos are read the way a viewer shows them, and bad ones end in one line."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_pipeline.errors import InputError
from data_pipeline.images import Limits, read_image


def picture(height=40, width=60):
    """uint8 [H, W, 3]: red rises to the right, green downwards."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4, y * 6, np.full_like(x, 90)], axis=-1).astype(np.uint8)


def refused(path, reason, limits=None):
    with pytest.raises(InputError) as caught:
        read_image(path, limits)
    message = str(caught.value)
    assert caught.value.reason == reason, message
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_round_trip(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(picture()).save(
        path, **({"lossless": True} if suffix == "webp" else {})
    )
    image = read_image(path)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, picture())


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned a quarter clockwise
    path = tmp_path / "p.png"
    Image.fromarray(picture()).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(picture(), -1))


def test_16_bit_grey_is_scaled(tmp_path):
    path = tmp_path / "p.png"
    grey = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(grey).save(path)
    image = read_image(path)
    np.testing.assert_allclose(image[..., 0], grey / 257.0, atol=1)
    assert (image == image[..., :1]).all()
    Image.fromarray(grey // 1024).save(path)  # a dark one stays dark
    assert read_image(path).max() == 0


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "I", "F", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("p.jpg" if mode in ("CMYK", "YCbCr") else "p.tiff")
    flat = np.full((32, 48), 128, np.uint8)
    Image.fromarray(flat).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (32, 48, 3)
    assert abs(image.mean() - 128) < 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_neutral_grey(tmp_path, mode):
    path = tmp_path / "p.png"
    clear = Image.new("L", (32, 32), 255).convert(mode)
    clear.putalpha(
        Image.fromarray(np.repeat([[0], [255]], 16, 0).repeat(32, 1).astype(np.uint8))
    )
    clear.save(path)
    image = read_image(path)
    assert (image[:16] == 128).all() and (image[16:] == 255).all()


def test_palette_transparency(tmp_path):
    path = tmp_path / "p.gif"
    image = Image.new("P", (32, 32), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(path, transparency=0)
    assert (read_image(path) == 128).all()


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (32, 32), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "p.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "p.gif") == [255, 0, 0]).all()


def test_files_that_are_not_there(tmp_path):
    refused(tmp_path / "none.png", "missing")
    refused(tmp_path, "not_a_file")
    (tmp_path / "zero.png").touch()
    refused(tmp_path / "zero.png", "empty")


def test_broken_files(tmp_path):
    good = tmp_path / "good.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(good)
    data = good.read_bytes()
    path = tmp_path / "p.jpg"
    path.write_bytes(data[: len(data) // 2])
    refused(path, "truncated")
    path.write_bytes(b"not a picture" * 30)
    refused(path, "unreadable")


def test_a_bomb_is_refused_from_its_header(tmp_path):
    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    )
    refused(path, "too_large")


def test_limits(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(picture()).save(path)
    assert "60x40" in refused(path, "too_large", Limits(max_image_pixels=2399))
    refused(path, "too_small", Limits(min_side=41))
    assert read_image(path, Limits(max_image_pixels=2400, min_side=40)).shape[0] == 40


def test_limits_from_a_command_line():
    limits = Limits.parse(["max_seconds=60", "max_pixels=1000"])
    assert limits == Limits(max_seconds=60.0, max_pixels=1000)
    assert Limits.parse([]) == Limits()
    for bad in (
        "max_seconds",
        "seconds=3",
        "max_pixels=2.5",
        "max_seconds=inf",
        "a=b=c",
    ):
        with pytest.raises(InputError, match="limit"):
            Limits.parse([bad])
    with pytest.raises(InputError, match="above 0"):
        Limits.parse(["max_frames=-1"])


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert "MB" in refused(path, "too_large", Limits(max_image_bytes=5000))
    assert read_image(path).shape == (40, 60, 3)


def test_a_jpeg_of_countless_passes_is_stopped(tmp_path):
    """26 kB of a photo that would take a minute: each pass walks over all pixels."""
    path = tmp_path / "p.jpg"
    Image.new("RGB", (2000, 2000), "grey").save(path, progressive=True)
    data = path.read_bytes()
    last = data.rindex(b"\xff\xda")
    scan = data[last : data.rindex(b"\xff\xd9")]
    path.write_bytes(data[:last] + scan * 10_000 + b"\xff\xd9")
    message = refused(path, "too_slow", Limits(max_image_seconds=0.2))
    assert "longer than 0.2 s" in message


def test_a_large_16_bit_photo_takes_a_few_times_its_size(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(np.full((1500, 2000), 40_000, np.uint16)).save(path)
    tracemalloc.start()
    image = read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (image == 156).all()
    assert peak < 4 * image.nbytes


def test_mutants_end_in_a_picture_or_one_line(tmp_path):
    rng = np.random.default_rng(1)
    for suffix in ("png", "jpg", "webp", "gif", "tiff"):
        source = tmp_path / f"s.{suffix}"
        Image.fromarray(picture()).save(source)
        data = np.frombuffer(source.read_bytes(), np.uint8)
        for _ in range(20):
            mutant = data.copy()
            at = rng.integers(0, len(data), 8)
            mutant[at] = rng.integers(0, 256, 8)
            path = tmp_path / f"m.{suffix}"
            path.write_bytes(
                mutant.tobytes()[: rng.integers(len(data) // 2, len(data) + 1)]
            )
            try:
                image = read_image(path)
            except InputError as error:
                assert "\n" not in str(error) and path.name in str(error)
            else:
                assert image.dtype == np.uint8 and image.shape[2] == 3


def test_samples(samples):
    expected = {
        "one_pixel.png": "too_small",
        "bomb_60000x60000.png": "too_large",
        "huge_header_only.png": "too_large",
        "truncated.jpg": "truncated",
        "corrupt.jpg": "unreadable",
    }
    sizes = {}
    for path in sorted((samples / "bad").iterdir()):
        if path.suffix not in (".png", ".jpg", ".gif", ".webp"):
            continue
        if path.name in expected:
            refused(path, expected[path.name])
        else:
            sizes[path.name] = read_image(path)
    assert len(sizes) == 6
    # The same photo, stored in three ways.
    base = sizes["exif_rotated.jpg"].mean(axis=-1)
    for name in ("cmyk.jpg", "gray16.png"):
        assert abs(sizes[name].mean(axis=-1) - base).mean() < 12, name


def test_colour_profiles_become_srgb(tmp_path):
    """A picture with another profile's numbers looks as the same picture in sRGB."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    other = bytearray(srgb.tobytes())
    (count,) = struct.unpack(">I", other[128:132])
    tags = (other[132 + 12 * i : 144 + 12 * i] for i in range(count))
    places = {bytes(tag[:4]): struct.unpack(">I", tag[4:8])[0] + 8 for tag in tags}
    red, green = (slice(places[t], places[t] + 12) for t in (b"rXYZ", b"gXYZ"))
    other[red], other[green] = other[green], other[red]  # they stand for each other
    image = picture()
    path = tmp_path / "swapped.png"
    Image.fromarray(image[..., [1, 0, 2]]).save(path, icc_profile=bytes(other))
    assert np.abs(read_image(path).astype(int) - image).max() <= 2
    opaque = np.concatenate([image[..., [1, 0, 2]], np.full_like(image, 255)], -1)
    Image.fromarray(opaque[..., :4]).save(path, icc_profile=bytes(other))
    assert np.abs(read_image(path).astype(int) - image).max() <= 2
    flat = Image.new("RGB", (32, 32), (50, 200, 20)).quantize(1)
    flat.save(path, icc_profile=bytes(other))
    assert np.abs(read_image(path).astype(int) - (200, 50, 20)).max() <= 2
    Image.fromarray(image).save(path, icc_profile=b"no profile")
    np.testing.assert_array_equal(read_image(path), image)
