"""Photos as arrays, and the limits that untrusted media must stay within."""

import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import time
import warnings
from collections.abc import Iterable

import numpy as np
import PIL
from PIL import Image, ImageCms, ImageOps

from data_pipeline.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_MAX_PROFILE = 2**24  # bytes of a colour profile
_COLOURED = ("RGB", "RGBA", "P", "CMYK")  # modes whose profiles are followed
_BLOCK = 2048  # bytes that Pillow decodes between two looks at the clock
_GROUND = (128, 128, 128)  # what shows through the transparent parts of a picture


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a file may ask of the machine; everything beyond is refused.

    One value serves photos, driving clips and whole corpora.

    Attributes:
      max_pixels: width x height of one video frame, as decoded and as shown.
      max_image_pixels: width x height of a photo.
      max_frames: frames of one video.
      max_seconds: length of one video.
      max_decode_seconds: time that decoding one video may take; the time its frames
        are worked on does not count.
      max_image_seconds: time that decoding one photo may take.
      max_streams: pictures, sounds, subtitles and so on in one file.
      max_bytes: size of a video file.
      max_image_bytes: size of a photo's file.
      min_side: smallest width or height, in pixels, that may hold a face.
    """

    max_pixels: int = 4096 * 4096
    max_image_pixels: int = 80_000_000
    max_frames: int = 250_000
    max_seconds: float = 7200.0
    max_decode_seconds: float = 3600.0
    max_image_seconds: float = 60.0
    max_streams: int = 64
    max_bytes: int = 32 * 2**30
    max_image_bytes: int = 2**28
    min_side: int = 16

    @classmethod
    def parse(cls, settings: Iterable[str]) -> "Limits":
        """Limits from a command line: `["max_seconds=60", "max_frames=1000"]`.

        Raises:
          InputError: no such limit, or not a number above 0.
        """
        kinds = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in kinds:
                raise InputError(
                    f"limit {setting!r}: expected NAME=NUMBER, with a name of "
                    f"{', '.join(kinds)}"
                )
            try:
                values[name] = kinds[name](value)
                if not 0 < values[name] < float("inf"):
                    raise ValueError
            except ValueError:
                kind = "a whole number" if kinds[name] is int else "a number"
                raise InputError(
                    f"limit {setting!r}: {value!r} is not {kind} above 0"
                ) from None
        return cls(**values)


# What storage answers that may answer differently another time.
STORAGE = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
)


def check_file(path: str | os.PathLike, max_bytes: int | None = None) -> pathlib.Path:
    """Absolute path of a readable file that is not empty; else `InputError`.

    A file of more than `max_bytes` is refused, too.

    The absolute path also keeps a name like `http://…` or `concat:…` from being
    taken for a protocol by the decoders.
    """
    path = pathlib.Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file in it.", "not_a_file")
        if not path.exists():
            raise InputError(f"{path}: no such file; check the name.", "missing")
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file.", "not_a_file")
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path}: is empty; copy it again.", "empty")
        if max_bytes is not None and size > max_bytes:
            raise InputError(
                f"{path}: {size / 1e6:.0f} MB is more than the limit of "
                f"{max_bytes / 1e6:.0f} MB; make it smaller.",
                "too_large",
            )
        return path.absolute()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = "storage" if getattr(error, "errno", None) in STORAGE else "unreadable"
        raise InputError(f"{path}: {one_line(error)}.", reason) from error


def one_line(error: BaseException) -> str:
    """The message of an exception without line breaks, at most 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def check_size(
    path: str | os.PathLike, width: int, height: int, max_pixels: int, min_side: int
) -> None:
    """Refuses pictures too large to decode safely or too small to show a face."""
    if width * height > max_pixels:
        raise InputError(
            f"{path}: {width}x{height} pixels is more than the limit of "
            f"{max_pixels / 1e6:.0f} megapixels; make it smaller.",
            "too_large",
        )
    if min(width, height) < min_side:
        raise InputError(
            f"{path}: {width}x{height} pixels is too small; "
            f"both sides need at least {min_side}.",
            "too_small",
        )


def read_image(path: str | os.PathLike, limits: Limits | None = None) -> np.ndarray:
    """Reads a photo the way a viewer shows it.

    The EXIF orientation is applied, a colour profile becomes sRGB, transparent parts
    lie on a neutral grey, 16-bit grey is scaled (not clipped) to 8 bits, and of an
    animation the first frame is taken.

    Returns:
      uint8 [H, W, 3] RGB.

    Raises:
      InputError: `missing`, `empty`, `not_a_file`, `too_large` (before anything is
        decoded), `too_small`, `too_slow`, `truncated` or `unreadable`.
    """
    limits = limits or Limits()
    name = path
    path = check_file(path, limits.max_image_bytes)
    with (
        _image_gate(name),
        io.BufferedReader(_TimedFile(path, limits.max_image_seconds)) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        width, height = image.size
        check_size(name, width, height, limits.max_image_pixels, limits.min_side)
        image.decodermaxblock = _BLOCK
        image.load()
        with contextlib.suppress(Exception):  # damaged EXIF: the picture is still good
            image = ImageOps.exif_transpose(image)
        with contextlib.suppress(Exception):  # so is it without a profile
            image = _to_srgb(image)
        return np.array(_to_rgb(image), np.uint8)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours as a screen shows them, of a picture that says what its own are."""
    profile = image.info.get("icc_profile")
    if not profile or len(profile) > _MAX_PROFILE or image.mode not in _COLOURED:
        return image
    if image.mode == "P":
        image = image.convert("RGBA")
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    image = ImageCms.profileToProfile(
        image.convert("RGB") if alpha else image,
        own,
        ImageCms.createProfile("sRGB"),
        outputMode="RGB",
    )
    if alpha:
        image.putalpha(alpha)
    return image


class _TimedFile(io.FileIO):
    """A file that can be read for a while only.

    A small progressive JPEG may hold thousands of passes over all its pixels. Pillow
    reads as it decodes, so that a stop of the one stops the other.
    """

    def __init__(self, path: pathlib.Path, seconds: float):
        super().__init__(path)
        self._seconds, self._deadline = seconds, time.monotonic() + seconds

    def readinto(self, buffer) -> int:
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"decoding takes longer than {self._seconds:g} s")
        return super().readinto(buffer)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits and more a pixel
        wide = image.mode.startswith("I;16") or image.format == "PNG"
        grey = _to_8_bits(np.array(image, np.float32), 65535.0 if wide else None)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*_GROUND, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(grey: np.ndarray, full: float | None) -> np.ndarray:
    """Grey to uint8, `full` becoming 255; None guesses it from the values.

    Works in place: a large photo's floats are needed once, not five times.
    """
    np.nan_to_num(grey, copy=False)
    if full is None:
        top = grey.max(initial=1e-6)
        full = next((f for f in (1.0, 255.0, 65535.0) if top <= f), top)
    grey /= full
    np.clip(grey, 0.0, 1.0, out=grey)
    grey *= 255.0
    grey += 0.5
    return grey.astype(np.uint8)


@contextlib.contextmanager
def _image_gate(name: str | os.PathLike):
    """Turns whatever Pillow raises into one `InputError`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Only a warning up to twice Pillow's own limit; ours may be lower yet.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name}: too many pixels to be decoded safely; make it smaller.",
            "too_large",
        ) from error
    except TimeoutError as error:
        raise InputError(
            f"{name}: {error}; open and save it again with an image editor.",
            "too_slow",
        ) from error
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{name}: is not a picture in one of the formats {', '.join(FORMATS)}, or "
            "its header is damaged; open and save it again with an image editor.",
            "unreadable",
        ) from error
    except Exception as error:
        # Decoders of foreign bytes raise nearly anything: OSError, SyntaxError,
        # struct.error, IndexError, MemoryError.
        reason = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise InputError(
            f"{name}: cannot be decoded ({one_line(error)}); use an intact copy.",
            reason,
        ) from error
