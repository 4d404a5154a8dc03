import bz2
import gzip
import tracemalloc

from common.galaxies.pictures import find_pictures, read_pictures

import numpy as np
import pytest
from networks import galaxies

fits = pytest.importorskip("astropy.io.fits")


def make_cube():
    """Light of a galaxy in three bands of 96 x 120 pixels on a noisy sky, below 1: float64."""
    light = galaxies(1, size=120)[0, 12:108].transpose(2, 0, 1) / 255
    return light * [[[0.4]], [[0.6]], [[0.8]]] + np.random.default_rng(0).normal(0.05, 0.01, light.shape)


def write(path, values, **cards):
    """Write a cube, or a list of HDUs, with cards that tell how to scale it, which astropy leaves as they are."""
    hdus = values if isinstance(values, list) else [fits.PrimaryHDU(values)]
    fits.HDUList(hdus).writeto(path)
    if cards:
        with fits.open(path, "update", do_not_scale_image_data=True) as file:
            file[0].header.update(cards)
    return path


def read(path, field=1.0):
    [(_, picture)] = read_pictures([path], 69, field)
    if isinstance(picture, Exception):
        raise picture
    return picture


@pytest.mark.parametrize(("stored", "cards"), [
    ("i2", {"BSCALE": 2**-15, "BZERO": 0.5}),
    ("i2", {"BSCALE": 1, "BZERO": 32768}),  # unsigned
    ("i2", {"BLANK": 0}),
    ("i2", {"BSCALE": 2**-15, "BZERO": 0.5, "BLANK": -32768}),
    ("i2", {"BSCALE": 1, "BZERO": 32768, "BLANK": 7}),
    ("u1", {"BSCALE": 0.5}),
    ("i4", {"BSCALE": 2**-10, "BZERO": -3.25, "BLANK": -1}),
    ("f4", {"BSCALE": 2.0, "BZERO": 1.5}),
    *((plain, {}) for plain in ("u2", "u4", "u8", "i1", "i8", "f8")),
])  # fmt: skip
def test_pixels_of_any_type_and_scale_give_the_picture_of_the_same_cube_as_floats(tmp_path, stored, cards):
    values = (make_cube() * {"u1": 250, "i1": 120, "i4": 10_000_000, "f4": 1}.get(stored, 30_000)).astype(stored)
    if "BLANK" in cards:
        values[:, 40:60, 50:55] = cards["BLANK"]
    floats = values * float(cards.get("BSCALE", 1)) + cards.get("BZERO", 0)  # by the definition of the standard
    if "BLANK" in cards:
        floats[:, 40:60, 50:55] = np.nan
    picture = read(write(tmp_path / "a.fits", values, **cards), 0.37)
    assert picture.any()
    assert np.array_equal(picture, read(write(tmp_path / "b.fits", floats.astype(np.float32)), 0.37))


def test_the_window_is_the_middle_of_the_cube(tmp_path):
    cube = make_cube()
    whole, middle = write(tmp_path / "a.fits", cube), write(tmp_path / "b.fits", cube[:, 24:72, 36:84])
    assert np.array_equal(read(whole, 0.5), read(middle))


def test_of_a_large_scaled_cube_only_the_window_is_read(tmp_path):
    cards = {"BITPIX": 16, "NAXIS": 3, "NAXIS1": 4000, "NAXIS2": 4000, "NAXIS3": 3, "BSCALE": 0.5, "BZERO": 7.0}
    header = "".join(f"{key:8}= {value:>20}".ljust(80) for key, value in {"SIMPLE": "T", **cards}.items()) + "END"
    with open(tmp_path / "a.fits", "wb") as file:
        file.write(header.ljust(2880).encode())
        file.truncate(2880 + 3 * 4000 * 4000 * 2 + 2880)
    tracemalloc.start()
    picture = read(tmp_path / "a.fits", field=0.05)
    assert tracemalloc.get_traced_memory()[1] < 10e6  # the cube has 96 MB
    tracemalloc.stop()
    assert picture.shape == (69, 69, 3)


@pytest.mark.parametrize("name", ["a.fits.gz", "a.fts.GZ", "b.fits.bz2", "c.fts", "d.fit", "e"])
def test_a_compressed_file_is_read_as_the_plain_one(tmp_path, name):
    plain = write(tmp_path / "plain.fits", make_cube().astype(np.float32))
    content = plain.read_bytes()
    compress = {".gz": gzip.compress, "bz2": bz2.compress}.get(name.lower()[-3:], bytes)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(compress(content))
    assert find_pictures([tmp_path / "in"]) == [path]
    assert np.array_equal(read(path, 0.5), read(plain, 0.5))


@pytest.mark.parametrize(("kind", "dtype"), [("RICE_1", "i2"), ("GZIP_2", "u2"), ("HCOMPRESS_1", "f4")])
def test_images_in_compressed_tiles_are_read_as_the_plain_ones(tmp_path, kind, dtype):
    values = (make_cube() * 30_000).astype(dtype)
    compressed = fits.CompImageHDU(values, compression_type=kind, quantize_level=16)
    path = write(tmp_path / "a.fits.fz", [fits.PrimaryHDU(), compressed])
    stored = fits.getdata(path, 1).astype(np.float32)  # floats are rounded by the compression
    assert abs(stored - values).max() < 300
    assert np.array_equal(read(path, 0.37), read(write(tmp_path / "b.fits", stored), 0.37))


@pytest.mark.parametrize(("hdus", "holds"), [
    (lambda band: [band, band[:4], ("R", band)], "120 x 96, 120 x 4, R 120 x 96"),
    (lambda band: [("G", band), ("R", band), ("Z", band)], "G 120 x 96, R 120 x 96, Z 120 x 96"),
    (lambda band: [("G", band)] * 7, ", ".join(["G 120 x 96"] * 5) + " and 2 more"),
    (lambda band: [np.stack([band] * 4)], "120 x 96 x 4"),
    (lambda band: [band[None, None]], "120 x 96 x 1 x 1"),
    (lambda band: [], "no image"),
])  # fmt: skip
def test_without_a_cube_of_three_bands_it_says_what_a_file_holds_and_what_is_needed(tmp_path, hdus, holds):
    named = [hdu if isinstance(hdu, tuple) else (None, hdu) for hdu in hdus(make_cube()[0])]
    images = [fits.ImageHDU(data, name=name) for name, data in named]
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])])
    path = write(tmp_path / "a.fits", [fits.PrimaryHDU(), *images, table])
    [(_, error)] = read_pictures([path], 69)
    needed = "which is needed: width x height x 3, the bluest band first"
    assert str(error) == f"holds {holds}, but no cube of three bands, {needed}"


def test_of_several_cubes_the_first_is_read_and_said(tmp_path, capsys):
    cube = make_cube()
    alone = read(write(tmp_path / "alone.fits", cube))
    assert capsys.readouterr().err == ""
    path = write(tmp_path / "a.fits", [fits.PrimaryHDU(cube), fits.ImageHDU(1 / cube, name="INVVAR")])
    assert np.array_equal(read(path), alone)
    assert capsys.readouterr().err == f"{path}: holds 2 cubes of three bands, of which the first (PRIMARY) is read\n"


def test_damaged_files_say_so_and_the_rest_goes_on(tmp_path):
    whole = write(tmp_path / "whole.fits", make_cube().astype(np.float32))
    content = whole.read_bytes()
    damaged = {
        "cut.fits": content[:60_000],
        "header.fits": content[:1000],
        "cut.fits.gz": gzip.compress(content)[:60_000],
        "flipped.fits.gz": gzip.compress(content)[:-6] + b"??????",  # its checksum and length
        "flipped.fits.bz2": bz2.compress(content)[:-3] + b"???",
    }
    for name, part in damaged.items():
        (tmp_path / name).write_bytes(part)
    found = list(read_pictures([path for name in damaged for path in (tmp_path / name, whole)], 69))
    assert all(isinstance(picture, Exception) and str(picture) for _, picture in found[::2])
    assert all(np.array_equal(picture, found[1][1]) for _, picture in found[1::2])
