"""How a picture in any file becomes 69 x 69 pixels, and the errors of files that cannot be read."""

import os
import struct
import zlib

from common.galaxies.pictures import READ_AHEAD, central_square, read_pictures

import h5py
import numpy as np
import pytest
from networks import galaxies
from PIL import Image


@pytest.fixture(scope="module")
def galaxy():
    """One picture of 138 x 138 pixels: twice the size that is read."""
    return galaxies(1, size=138)[0]


def read(path, field=1.0):
    [(_, picture)] = read_pictures([path], field)
    if isinstance(picture, Exception):
        raise picture
    return picture.astype(int)


def halved(pixels):
    """The mean of each 2 x 2 pixels."""
    h, w, c = pixels.shape
    return pixels.reshape(h // 2, 2, w // 2, 2, c).mean((1, 3))


def saved(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"])
def test_pictures_of_any_mode_give_the_mean_over_each_area(tmp_path, galaxy, mode):
    image = Image.fromarray(galaxy).convert(mode)
    path = saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), image)
    assert abs(read(path) - halved(np.asarray(image.convert("RGB")))).max() <= 1  # PIL rounds twice


def test_a_large_jpeg_decoded_at_a_lower_scale_is_close_to_the_whole_one(tmp_path):
    small = np.random.default_rng(0).integers(50, 100, (69, 69, 1), dtype=np.uint8).repeat(3, axis=2)
    path = saved(tmp_path / "a.jpg", small.repeat(5, axis=0).repeat(5, axis=1), quality=95)
    assert abs(read(path) - small).mean() < 4  # 12 if it is decoded at an eighth of its size


def test_transparent_pixels_are_black(tmp_path, galaxy):
    alpha = np.full((138, 138, 1), 255, dtype=np.uint8)
    alpha[:69] = 0
    picture = read(saved(tmp_path / "a.png", np.concatenate([galaxy, alpha], axis=2)))
    assert picture[:34].max() == 0
    assert abs(picture[35:] - halved(galaxy)[35:]).max() <= 1


def colour_png(pixels):
    """A PNG of 16-bit colours, uint16 (h, w, 3), which PIL cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def planar_tiff():
    """A TIFF of one pixel of 16-bit colours, stored plane by plane."""
    entries = [(256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 3, 14)]
    entries += [(277, 3, 1, 3), (278, 4, 1, 1), (279, 4, 3, 26), (284, 3, 1, 2)]
    tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    values = struct.pack("<3H6I", 16, 16, 16, 38, 40, 42, 2, 2, 2)  # bits, offsets, lengths
    return b"II*\0" + struct.pack("<I", 44) + values + bytes(6) + struct.pack("<H", len(entries)) + tags + bytes(4)


@pytest.mark.parametrize(("name", "bits", "top"), [
    ("a.png", 8, 99), ("a.png", 10, 256), ("a.tif", 10, 1023), ("a.png", 12, 1024), ("a.tif", 16, 4096)])  # fmt: skip
def test_grey_pixels_of_fewer_than_16_bits_are_scaled_which_is_said(tmp_path, capsys, galaxy, name, bits, top):
    stored = np.round(galaxy[..., :1] / galaxy[..., 0].max() * top).astype(np.uint16)
    path = saved(tmp_path / name, Image.fromarray(stored[..., 0]))
    assert abs(read(path) - halved(stored / (2**bits - 1) * 255)).max() <= 2  # of rounding three times
    sentence = f"{path}: 16-bit pixels reach only {top}: scaled from {bits} bits\n"
    assert capsys.readouterr().err == ("" if bits == 16 else sentence)


def test_sixteen_bit_colours_that_pillow_cannot_give_are_refused(tmp_path, galaxy):
    (tmp_path / "a.png").write_bytes(colour_png(galaxy.astype(np.uint16) * 257))
    assert abs(read(tmp_path / "a.png") - halved(galaxy)).max() <= 1
    (tmp_path / "dark.png").write_bytes(colour_png(galaxy.astype(np.uint16) * 4))
    with pytest.raises(ValueError, match="has 16-bit colours below 4,096, which Pillow reads as black"):
        read(tmp_path / "dark.png")
    (tmp_path / "planes.tif").write_bytes(planar_tiff())
    with pytest.raises(ValueError, match="stores 16-bit colours in separate planes"):
        read(tmp_path / "planes.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.tif"])
def test_of_several_pictures_in_a_file_the_first_is_read(tmp_path, capsys, galaxy, name):
    path = saved(tmp_path / name, galaxy, save_all=True, append_images=[Image.new("RGB", (138, 138), "white")])
    assert abs(read(path) - halved(galaxy)).mean() < 6  # a GIF has 256 colours
    assert capsys.readouterr().err == f"{path}: holds several pictures; only the first is read\n"


@pytest.mark.parametrize(("name", "mode"), [("a.png", "RGB"), ("a.png", "RGBA"), ("a.tif", "RGB")])
def test_exif_orientation_is_undone(tmp_path, galaxy, name, mode):
    wide = np.concatenate([galaxy, galaxy[:, :40]], axis=1)
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(wide))).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6  # the upright picture's left is the stored one's bottom
    difference = abs(read(saved(tmp_path / name, stored, exif=exif)) - read(saved(tmp_path / "upright.png", wide)))
    assert difference.max() <= 1  # of rounding rows or columns first


def test_the_square_is_central_and_the_field_its_middle(tmp_path):
    pixels = np.zeros((138, 200, 3), dtype=np.uint8)
    pixels[:, 31:169] = 100
    pixels[34:104, 66:136] = 200
    path = saved(tmp_path / "a.png", pixels)
    assert read(path).min() == 100
    assert read(path, field=0.5).min() == 200
    assert central_square(200, 100, 0.5) == (75, 25, 125, 75)
    assert read(saved(tmp_path / "small.png", pixels[:40, 80:120])).shape == (69, 69, 3)


def test_hdf5_images_of_the_size_are_read_unchanged_and_others_resized(tmp_path, galaxy):
    for name, images in (("a.h5", galaxies(5)), ("b.h5", galaxy[None])):
        with h5py.File(tmp_path / name, "w") as file:
            file["images"] = images
    found = dict(read_pictures([tmp_path / "a.h5"]))
    assert list(found) == [f"{tmp_path}/a.h5[{row}]" for row in range(5)]
    assert np.array_equal(list(found.values()), galaxies(5))
    assert abs(read(tmp_path / "b.h5") - halved(galaxy)).max() <= 1


@pytest.mark.filterwarnings("ignore:Image size")  # PIL's, which pytest makes visible
def test_more_pixels_than_are_decoded_are_refused(tmp_path):
    Image.new("1", (12_000, 9_000)).save(tmp_path / "a.png")
    with pytest.raises(Image.DecompressionBombError, match="exceeds limit of 100000000 pixels"):
        read(tmp_path / "a.png")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", (1, 40_000, 40_000, 3), "uint8", chunks=(1, 100, 100, 3), compression="gzip")
    with pytest.raises(ValueError, match="1,600,000,000 pixels"):
        read(tmp_path / "a.h5")


def test_a_picture_that_cannot_be_read_gives_an_error_and_the_rest_goes_on(tmp_path, galaxy):
    whole = saved(tmp_path / "whole.png", galaxy)
    content = whole.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    Image.fromarray(galaxy[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((2, 3, 69, 69), dtype=np.uint8)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nothing").mkdir()
    reasons = {"cut.png": "truncated", "float.tif": "has floating-point pixels", "other.h5": "not uint8 n x height"}
    reasons |= {"pipe.png": "is neither a file nor", "nothing": "is a folder without pictures", "none": "No such file"}
    found = list(read_pictures([part for name in reasons for part in (tmp_path / name, whole)]))
    for reason, (_, error), (_, picture) in zip(reasons.values(), found[::2], found[1::2], strict=True):
        assert reason in str(error)
        assert np.array_equal(picture, found[1][1])


def test_few_pictures_are_read_ahead(tmp_path, galaxy):
    path, taken = saved(tmp_path / "a.png", galaxy), []
    found = read_pictures((taken.append(path) or path for _ in range(1000)), threads=2)
    next(found)
    assert len(taken) <= 2 * READ_AHEAD + 1
    found.close()
