import io
import os
import struct
import tracemalloc
import zlib

from common.galaxies.pictures import READ_AHEAD, central_square, read_pictures

import h5py
import numpy as np
import pytest
from networks import galaxies
from PIL import Image


@pytest.fixture(scope="module")
def galaxy():
    """One picture of 138 x 138 pixels, whose area mean over 2 x 2 pixels is 69 x 69."""
    return galaxies(1, size=138)[0]


def read(path, size=69, field=1.0):
    [(_, picture)] = read_pictures([path], size, field)
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


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "no_suffix"])
def test_lossless_formats_give_the_mean_over_each_area(tmp_path, galaxy, name):
    options = {"lossless": True} if name.endswith("webp") else {"format": "PNG"} if "." not in name else {}
    assert abs(read(saved(tmp_path / name, galaxy, **options)) - halved(galaxy)).max() <= 1  # PIL rounds twice


def test_jpeg_is_close_to_the_picture(tmp_path, galaxy):
    assert abs(read(saved(tmp_path / "a.jpg", galaxy, quality=95)) - halved(galaxy)).mean() < 3


def test_a_large_jpeg_decoded_at_a_lower_scale_is_close_to_the_whole_one(tmp_path):
    large = galaxies(1, size=552)[0]
    path = saved(tmp_path / "a.jpg", large, quality=95)
    with Image.open(path) as image:
        whole = np.asarray(image).astype(float).reshape(69, 8, 69, 8, 3).mean((1, 3))
    assert abs(read(path) - whole).mean() < 1.5


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_are_read_as_pil_converts_them(tmp_path, galaxy, mode):
    image = Image.fromarray(galaxy).convert(mode)
    path = saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), image)
    assert abs(read(path) - halved(np.asarray(image.convert("RGB")))).max() <= 1


def test_transparent_pixels_are_black(tmp_path, galaxy):
    alpha = np.full((138, 138, 1), 255, dtype=np.uint8)
    alpha[:69] = 0
    picture = read(saved(tmp_path / "a.png", np.concatenate([galaxy, alpha], axis=2)))
    assert picture[:34].max() == 0
    assert abs(picture[35:] - halved(galaxy)[35:]).max() <= 1


def png(header, rows):
    """A PNG file's bytes, for what PIL cannot write."""
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def colour_png(pixels):
    """A PNG of 16-bit colours, uint16 (h, w, 3) or with transparency (h, w, 4)."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    height, width, channels = pixels.shape
    return png(struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0), rows)


def colour_tiff(pixels, planes=False):
    """A TIFF of 16-bit colours, uint16 (h, w, 3), pixel by pixel or plane by plane."""
    height, width, _ = pixels.shape
    size = 2 * height * width
    data = (pixels.transpose(2, 0, 1) if planes else pixels).astype("<u2").tobytes()
    strips, end = 3 if planes else 1, 8 + len(data)
    bits, offsets, counts = end, end + 6, end + 6 + 4 * strips
    tail = struct.pack("<3H", 16, 16, 16) + struct.pack("<3I", 8, 8 + size, 8 + 2 * size)[: 4 * strips]
    tail += struct.pack("<I", size * 3 // strips) * strips
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, strips, offsets if planes else 8), (277, 3, 1, 3), (278, 4, 1, height)]
    entries += [(279, 4, strips, counts if planes else 3 * size), (284, 3, 1, 2 if planes else 1)]
    tags = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    directory = struct.pack("<H", len(entries)) + tags + bytes(4)
    return b"II*\0" + struct.pack("<I", end + len(tail)) + data + tail + directory


@pytest.mark.parametrize(("kind", "bits", "top"), [
    ("a.png", 8, 255), ("a.png", 8, 99), ("a.png", 10, 256), ("a.png", 10, 1023), ("a.png", 12, 1024),
    ("a.png", 12, 4095), ("a.png", 16, 4096), ("a.png", 16, 65535), ("a.tif", 10, 777), ("a.tif", 16, 65535),
    ("colour.png", 16, 65535)])  # fmt: skip
def test_sixteen_bits_that_hold_fewer_are_scaled_by_those_and_that_is_said(tmp_path, capsys, galaxy, kind, bits, top):
    path, colours = tmp_path / kind, galaxy if kind == "colour.png" else galaxy[..., :1]
    stored = np.round(colours / colours.max() * top).astype(np.uint16)
    if kind == "colour.png":
        path.write_bytes(colour_png(stored))
    else:
        saved(path, Image.fromarray(stored[..., 0]))
    assert abs(read(path) - halved(stored / (2**bits - 1) * 255)).max() <= 2  # of rounding three times
    sentence = f"{path}: 16-bit pixels reach only {top}: scaled from {bits} bits\n"
    assert capsys.readouterr().err == ("" if bits == 16 else sentence)


def test_sixteen_bit_colours_that_pillow_cannot_give_are_refused(tmp_path, galaxy):
    galaxy = galaxy.astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(colour_tiff(galaxy * 257))
    assert abs(read(tmp_path / "a.tif") - halved(galaxy)).max() <= 1
    opaque = np.full((138, 138, 1), 65535, dtype=np.uint16)
    for name, content, sentence in (
        ("dark.tif", colour_tiff(galaxy * 4), "has 16-bit colours below 4,096, which Pillow makes black"),
        ("dark.png", colour_png(galaxy * 4), "has 16-bit colours below 4,096, which Pillow makes black"),
        ("alpha.png", colour_png(np.concatenate([galaxy * 4, opaque], 2)), "has 16-bit colours below 4,096"),
        ("planes.tif", colour_tiff(galaxy * 257, planes=True), "stores 16-bit colours one after the other"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=sentence):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_of_several_pictures_in_a_file_the_first_is_read_and_that_is_said(tmp_path, capsys, galaxy, name):
    first, second = Image.fromarray(galaxy), Image.new("RGB", (138, 138), "white")
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path / name, first, save_all=True, append_images=[second], **options)
    assert abs(read(path) - halved(galaxy)).mean() < 6  # a GIF has 256 colours
    assert capsys.readouterr().err == f"{path}: holds several pictures, of which the first is read\n"


@pytest.mark.parametrize(("name", "orientation"), [
    *((name, orientation) for name in ("a.jpg", "a.tif") for orientation in range(1, 9)), ("a.png", 6), ("a.webp", 7),
])  # fmt: skip
def test_exif_orientation_is_undone(tmp_path, galaxy, name, orientation):
    wide = np.concatenate([galaxy, galaxy[:, :40]], axis=1)
    inverse = {1: [], 2: ["H"], 3: ["R", "R"], 4: ["R", "R", "H"], 5: ["T"], 6: ["R"], 7: ["R", "R", "T"], 8: ["R"] * 3}
    stored = wide
    for step in inverse[orientation]:  # what turns the upright picture into the stored one
        stored = {"H": np.fliplr, "R": np.rot90, "T": lambda a: a.swapaxes(0, 1)}[step](stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if name.endswith("webp") else {"quality": 95} if name.endswith("jpg") else {}
    path = saved(tmp_path / name, np.ascontiguousarray(stored), exif=exif, **options)
    upright = read(saved(tmp_path / "upright.png", wide))
    difference = abs(read(path) - upright)
    assert difference.mean() < (3 if name.endswith("jpg") else 0.2)
    assert difference.max() <= (50 if name.endswith("jpg") else 1)  # of rounding rows or columns first


def test_exif_orientation_is_undone_where_transparency_is_too(tmp_path, galaxy):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(galaxy))).convert("RGBA")
    assert abs(read(saved(tmp_path / "a.png", stored, exif=exif)) - halved(galaxy)).max() <= 1


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
    images = galaxies(5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["images"] = images
    found = list(read_pictures([tmp_path / "a.h5"], 69))
    assert [name for name, _ in found] == [f"{tmp_path}/a.h5[{row}]" for row in range(5)]
    assert np.array_equal([picture for _, picture in found], images)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["images"] = galaxy[None]
    assert abs(read(tmp_path / "b.h5") - halved(galaxy)).max() <= 1


def test_a_fits_cube_is_made_a_picture_by_lupton(tmp_path):
    fits = pytest.importorskip("astropy.io.fits")
    light = galaxies(1, size=138)[0][..., 0].astype(np.float32) / 100
    cube = np.stack([light * 0.5, light, light * 2])  # the last band, the reddest, is the brightest
    cube[:, 0, 0] = np.nan
    fits.PrimaryHDU(cube).writeto(tmp_path / "a.fits")
    picture = read(tmp_path / "a.fits")
    assert picture.shape == (69, 69, 3)
    middle = picture[30:39, 30:39].mean((0, 1))
    assert middle[0] > middle[1] > middle[2]
    assert middle.mean() > 3 * picture[:8].mean()


def png_header(width, height):
    """A PNG that only claims to have so many pixels."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"")


def compressed_bomb():
    """A true PNG of 12,000 x 12,000 black pixels in 140 kB."""
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Image size")  # PIL's, which pytest makes visible
@pytest.mark.parametrize("content", [png_header(100_000, 10_000), png_header(12_000, 9_000), compressed_bomb()])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, content):
    (tmp_path / "bomb.png").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(Image.DecompressionBombError, match="exceeds limit of 100000000 pixels"):
        read(tmp_path / "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_hdf5_and_fits_bombs_are_refused_before_they_are_decoded(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", (1, 40_000, 40_000, 3), "uint8", chunks=(1, 100, 100, 3), compression="gzip")
    with pytest.raises(ValueError, match="1,600,000,000 pixels"):
        read(tmp_path / "a.h5")
    cards = ["SIMPLE  =                    T", "BITPIX  =                  -32", "NAXIS   =                    3"]
    cards += [f"NAXIS{axis}  = {length:20}" for axis, length in ((1, 40_000), (2, 40_000), (3, 3))]
    pytest.importorskip("astropy")
    (tmp_path / "c.fits").write_bytes("".join(card.ljust(80) for card in [*cards, "END"]).ljust(2880).encode())
    with pytest.raises(ValueError, match="1,600,000,000 pixels"):
        read(tmp_path / "c.fits")


def test_what_cannot_be_read_says_why_and_the_rest_goes_on(tmp_path, galaxy):
    whole = saved(tmp_path / "whole.png", galaxy)
    content = whole.read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "damaged.png").write_bytes(content[:60] + bytes(200) + content[260:])
    Image.fromarray(galaxy[..., 0].astype(np.float32)).save(tmp_path / "float.tif")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros((2, 3, 69, 69), dtype=np.uint8)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nothing").mkdir()
    unreadable = [*(path for path in tmp_path.iterdir() if path != whole), tmp_path / "none.png"]
    paths = [part for path in unreadable for part in (path, whole)]
    found = list(read_pictures(paths, 69))
    assert all(isinstance(picture, Exception) and str(picture) for _, picture in found[::2])
    assert all(np.array_equal(picture, found[1][1]) for _, picture in found[1::2])


def test_few_pictures_are_read_ahead(tmp_path, galaxy):
    path, taken = saved(tmp_path / "a.png", galaxy), []
    paths = (taken.append(path) or path for _ in range(1000))
    found = read_pictures(paths, 69, threads=2)
    next(found)
    assert len(taken) <= 2 * READ_AHEAD + 1
    found.close()
