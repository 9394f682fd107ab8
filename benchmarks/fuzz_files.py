"""The good files that the fuzzer starts from, all made here: no media come along."""

from __future__ import annotations

import pathlib
import shutil

import av
import jax
import numpy as np
import rich.console
from PIL import Image

from data_pipeline import archive, geometry, synthetic, work_files
from data_pipeline.prepare import prepare
from data_pipeline.raster import RasterStyle
from data_pipeline.records import Settings, prepare_video
from data_pipeline.tracking import track_video
from data_pipeline.voxceleb import Video
from flax_heads.generator import Generator
from flax_heads.talking_head import TalkingHead

_SIZE = 96
_SAMPLES = 3  # files of each kind that are taken from a folder of samples
_LARGEST = 400_000  # bytes of such a file

_TURNED = ".mov"  # of the clips, this is to be shown turned

# Suffix -> encoder, container, sound.
_CLIPS = {
    ".mp4": ("libx264", "mp4", "aac"),
    ".mov": ("mpeg4", "mov", None),
    ".mkv": ("libx264", "matroska", "aac"),
    ".webm": ("libvpx", "webm", None),
    ".avi": ("mpeg4", "avi", None),
    ".mpg": ("mpeg1video", "mpeg", None),
}


def make_files(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """Writes good files and folders; kind -> their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    frames, _ = synthetic.make_video(0, 12, _SIZE)
    files: dict[str, list[pathlib.Path]] = {}

    def add(kind: str, path: pathlib.Path) -> pathlib.Path:
        files.setdefault(kind, []).append(path)
        return path

    for suffix in _CLIPS:
        upright = np.rot90(frames, -1, (1, 2)) if suffix == _TURNED else frames
        _write_clip(add(suffix[1:], folder / f"clip{suffix}"), upright)
    _write_sound(add("wav", folder / "sound.wav"))
    clip = files["mp4"][0]
    for name, options in _photos(frames[0]).items():
        image, save = options
        image.save(add(name.split(".")[-1], folder / name), **save)
    track_video(clip, cropped=True).save(add("track", folder / "track.npz"))
    archive.render_archive(2, 3, 32, num_workers=0).save(
        add("archive", folder / "archive.npz")
    )
    video = Video("id/clip", "id", "clip", "train", (clip,))
    settings = Settings(size=32, frames_per_video=4)
    work_files.save_work(
        add("work", folder / "work.npz"), *prepare_video(video, settings)
    )
    _make_head(add("head", folder / "head"), frames)
    _make_boxes(add("boxes", folder / "00001.txt"))
    _make_dataset(add("dataset", folder / "dataset"), folder / "corpus")
    return files


def add_samples(
    files: dict[str, list[pathlib.Path]], samples: pathlib.Path
) -> dict[str, list[pathlib.Path]]:
    """The files and a few small ones of a folder with real media."""
    found: dict[str, list[pathlib.Path]] = {kind: [] for kind in files}
    for path in sorted(samples.rglob("*")):
        kind = path.suffix[1:].lower().replace("jpeg", "jpg")
        good = path.is_file() and path.parent.name != "bad"
        if kind in files and good and path.stat().st_size < _LARGEST:
            found[kind].append(path)
    return {kind: [*files[kind], *found[kind][:_SAMPLES]] for kind in files}


def _write_clip(path: pathlib.Path, frames: np.ndarray) -> None:
    encoder, container, sound = _CLIPS[path.suffix]
    with av.open(str(path), "w", format=container) as output:
        stream = output.add_stream(encoder, rate=25)
        _, stream.height, stream.width, _ = frames.shape
        stream.pix_fmt, stream.bit_rate = "yuv420p", 400_000
        if path.suffix == _TURNED:
            stream.set_display_rotation(90)
        if sound:
            audio = output.add_stream(sound, rate=16_000, layout="mono")
        for frame in np.ascontiguousarray(frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode())
        if sound:
            _add_sound(output, audio)


def _write_sound(path: pathlib.Path) -> None:
    with av.open(str(path), "w", format="wav") as output:
        _add_sound(output, output.add_stream("pcm_s16le", rate=16_000, layout="mono"))


def _add_sound(output, stream) -> None:
    """Half a second of a tone."""
    wave = 9000 * np.sin(0.2 * np.arange(8000))
    frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], "s16", "mono")
    frame.sample_rate, frame.pts = 16_000, 0
    output.mux(stream.encode(frame))
    output.mux(stream.encode())


def _photos(frame: np.ndarray) -> dict[str, tuple[Image.Image, dict]]:
    """File name -> picture and how to save it."""
    image = Image.fromarray(frame)
    alpha = image.copy()
    alpha.putalpha(128)
    grey16 = Image.fromarray(frame[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.rot90(frame))
    several = {"save_all": True, "append_images": [image.rotate(9)]}
    return {
        "rgb.png": (image, {}),
        "alpha.png": (alpha, {}),
        "grey16.png": (grey16, {}),
        "palette.png": (image.quantize(16), {}),
        "turned.jpg": (turned, {"exif": exif}),
        "progressive.jpg": (image, {"progressive": True}),
        "cmyk.jpg": (image.convert("CMYK"), {}),
        "lossy.webp": (image, {}),
        "lossless.webp": (alpha, {"lossless": True}),
        "animated.webp": (image, several),
        "animated.gif": (image, several),
        "rgb.bmp": (image, {}),
        "deflate.tiff": (image, {"compression": "tiff_deflate"}),
        "lzw.tiff": (image, {"compression": "tiff_lzw"}),
        "jpeg.tiff": (image, {"compression": "jpeg"}),
    }


def _make_head(folder: pathlib.Path, frames: np.ndarray) -> None:
    attributes = {
        "channels": [8, 16],
        "num_residual_blocks": 1,
        "attention_after": 1,
        "up_attention_after": None,
    }
    module = Generator(**{**attributes, "channels": (8, 16)})
    psi = np.zeros(module.psi_size, np.float32)
    raster = np.zeros((1, 16, 16, 3), np.float32)
    params = module.init(jax.random.key(0), raster, psi[None])["params"]
    points = synthetic.make_video(0, 1, 16)[1]
    photo = geometry.crop(frames[0], geometry.whole_frame(_SIZE, _SIZE), 16)
    head = TalkingHead(
        attributes, params, psi, 16, RasterStyle(), points, photo[None], {"step": 1}
    )
    head.save(folder)


def _make_boxes(path: pathlib.Path) -> None:
    rows = [f"{i:06d} \t0.2 \t0.2 \t0.5 \t0.5 " for i in range(12)]
    head = ["Identity  : \tid1", "Reference : \tclip", "", "FRAME \tX \tY \tW \tH "]
    path.write_text("\n".join([*head, *rows]) + "\n")


def _make_dataset(folder: pathlib.Path, corpus: pathlib.Path) -> None:
    """Four people to train on, one to test, prepared at 64 px."""
    for seed, person in enumerate("abcde"):
        path = corpus / "mp4" / person / "clip" / "00001.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_clip(path, synthetic.make_video(3 * seed, 10, _SIZE)[0])
    prepare(
        *(corpus, "voxceleb2", folder),
        size=64,
        frames_per_video=10,
        workers=0,
        test_identities=["e"],
        console=rich.console.Console(quiet=True),
    )
    (folder / "report.json").unlink()
    inner = next(folder.glob("talking_heads/*/*/metadata.json")).parent
    for path in list(inner.iterdir()):
        path.rename(folder / path.name)
    shutil.rmtree(folder / "talking_heads")
