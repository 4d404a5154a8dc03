"""FITS cubes of three bands: the picture that they become, and the errors of other files."""

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


def write(path, *hdus):
    """Write HDUs, or a cube."""
    hdus = [fits.PrimaryHDU(hdu) if isinstance(hdu, np.ndarray) else hdu for hdu in hdus]
    fits.HDUList(hdus).writeto(path)
    return path


def read(path, field=1.0):
    [(_, picture)] = read_pictures([path], field)
    if isinstance(picture, Exception):
        raise picture
    return picture


def test_a_cube_becomes_a_picture_with_its_last_band_red_and_its_last_row_on_top(tmp_path):
    light = galaxies(1, size=138)[0][..., 0].astype(np.float32) / 100
    cube = np.stack([light * 0.5, light, light * 2])  # the last band, the reddest, is the brightest
    cube[:, 0, 0] = np.nan
    cube[:, -20:, :20] = 5  # north-east, as FITS counts its rows
    picture = read(write(tmp_path / "a.fits", cube)).astype(int)
    middle = picture[30:39, 30:39].mean((0, 1))
    assert middle[0] > middle[1] > middle[2]
    assert middle.mean() > 3 * picture[-8:].mean()
    assert picture[:9, :9].min() > picture[-9:, :9].max()


def test_pixels_without_a_value_are_counted_and_a_cube_of_them_is_refused(tmp_path, capsys):
    cube = make_cube()
    cube[1, :48, :60] = np.nan  # 48 x 48 of them in the square of 96 x 96 that is kept
    path = write(tmp_path / "a.fits", cube)
    holes = read(path)
    assert capsys.readouterr().err == (f"{path}: 2,304 of 27,648 pixel values (8.3%) are NaN or infinite, set to 0\n")
    assert np.array_equal(holes, read(write(tmp_path / "b.fits", np.nan_to_num(cube))))
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="has only NaN or infinite pixels"):
        read(write(tmp_path / "c.fits", np.full_like(cube, np.nan)))


def test_the_sky_of_each_band_is_subtracted(tmp_path):
    cube, sky = make_cube(), np.array([1, 2, 4])[:, None, None]
    dark, bright = read(write(tmp_path / "a.fits", cube)), read(write(tmp_path / "b.fits", cube + sky))
    assert abs(dark.astype(int) - bright).max() <= 1


@pytest.mark.parametrize(("stored", "cards"), [
    ("i2", {"BSCALE": 2**-15, "BZERO": 0.5, "BLANK": -32768}), ("u2", {}), ("f8", {})])  # fmt: skip
def test_pixels_of_any_type_and_scale_give_the_picture_of_the_same_cube_as_floats(tmp_path, stored, cards):
    values = (make_cube() * 30_000).astype(stored)
    floats = values * float(cards.get("BSCALE", 1)) + cards.get("BZERO", 0)  # by the definition of the standard
    if cards:
        values[:, 40:60, 50:55] = cards["BLANK"]
        floats[:, 40:60, 50:55] = np.nan
    path = write(tmp_path / "a.fits", values)
    with fits.open(path, "update", do_not_scale_image_data=True) as file:
        file[0].header.update(cards)
    assert np.array_equal(read(path, 0.37), read(write(tmp_path / "b.fits", floats.astype(np.float32)), 0.37))


def test_the_window_is_the_middle_of_the_cube(tmp_path):
    cube = make_cube()
    whole, middle = write(tmp_path / "a.fits", cube), write(tmp_path / "b.fits", cube[:, 24:72, 36:84])
    assert np.array_equal(read(whole, 0.5), read(middle))


def test_of_a_large_cube_only_the_window_is_read_and_a_too_large_one_is_refused(tmp_path):
    cards = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 3, "NAXIS1": 5000, "NAXIS2": 5000, "NAXIS3": 3, "BSCALE": 0.5}
    header = "".join(f"{key:8}= {value:>20}".ljust(80) for key, value in cards.items()) + "END"
    with open(tmp_path / "a.fits", "wb") as file:
        file.write(header.ljust(2880).encode())
        file.truncate(2880 + 3 * 5000 * 5000 * 2 + 2880)
    tracemalloc.start()
    assert read(tmp_path / "a.fits", field=0.05).shape == (69, 69, 3)
    with pytest.raises(ValueError, match="has 25,000,000 pixels"):
        read(tmp_path / "a.fits")
    assert tracemalloc.get_traced_memory()[1] < 10e6  # the cube has 150 MB
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.fts.GZ", "b.fits.bz2", "e", "c.fits.fz"])
def test_a_compressed_file_is_found_and_read_as_the_plain_one(tmp_path, name):
    values = (make_cube() * 30_000).astype(np.int16)
    plain = write(tmp_path / "plain.fits", values)
    compress = {".GZ": gzip.compress, "bz2": bz2.compress}.get(name[-3:], bytes)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    if name.endswith(".fz"):  # compressed in tiles
        write(path, fits.PrimaryHDU(), fits.CompImageHDU(values, compression_type="RICE_1"))
    else:
        path.write_bytes(compress(plain.read_bytes()))
    assert find_pictures([tmp_path / "in"]) == [path]
    assert np.array_equal(read(path, 0.37), read(plain, 0.37))


@pytest.mark.parametrize(("names", "shape", "holds"), [
    ([None, "G"], (96, 120), "120 x 96, G 120 x 96"), ([], (), "no image"),
    ([None] * 7, (4, 2, 3), ", ".join(["3 x 2 x 4"] * 5) + " and 2 more")])  # fmt: skip
def test_without_a_cube_of_three_bands_the_error_says_what_the_file_holds(tmp_path, names, shape, holds):
    images = [fits.ImageHDU(np.zeros(shape), name=name) for name in names]
    needed = r"but no cube of three bands \(width x height x 3, the bluest band first\)"
    with pytest.raises(ValueError, match=f"holds {holds}, {needed}"):
        read(write(tmp_path / "a.fits", fits.PrimaryHDU(), *images, fits.BinTableHDU()))


def test_of_several_cubes_the_first_is_read(tmp_path, capsys):
    cube = make_cube()
    alone = read(write(tmp_path / "alone.fits", cube))
    path = write(tmp_path / "a.fits", cube, fits.ImageHDU(1 / cube, name="INVVAR"))
    assert np.array_equal(read(path), alone)
    assert capsys.readouterr().err == f"{path}: holds 2 cubes of three bands; only the first (PRIMARY) is read\n"


def test_damaged_files_say_so_and_the_rest_goes_on(tmp_path):
    whole = write(tmp_path / "whole.fits", make_cube().astype(np.float32))
    content = whole.read_bytes()
    damaged = {"cut.fits": content[:60_000], "cut.fits.gz": gzip.compress(content)[:60_000]}
    damaged["flipped.fits.gz"] = gzip.compress(content)[:-6] + b"??????"  # its checksum and length
    for name, part in damaged.items():
        (tmp_path / name).write_bytes(part)
    found = dict(read_pictures([*(tmp_path / name for name in damaged), whole]))
    assert isinstance(found.pop(f"{whole}"), np.ndarray)
    reasons = ["cannot reshape array", *["is damaged, or not JPEG, PNG, TIFF, WebP, BMP, GIF, HDF5 or FITS"] * 2]
    for error, reason in zip(found.values(), reasons, strict=True):
        assert str(error).startswith(reason)
