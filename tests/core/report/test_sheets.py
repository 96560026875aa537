"""Sheets: where each image lies, labels, and text."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dimo_core.files.images import image_png, png
from dimo_core.report.sheets import GAP, MARGIN, below, beside, grid, sheet
from dimo_core.teacher import Preview


def flat(*values, channels=1, size=8):
    return torch.stack([torch.full((channels, size, size), v, dtype=torch.uint8) for v in values])


def opened(data):
    return Image.open(io.BytesIO(data))


def ink(image):
    """Dark pixels that are not part of a cell of the value 200."""
    return int((np.asarray(image.convert("L")) < 190).sum())


def test_images_lie_row_by_row_with_gaps_on_light_paper():
    paper = grid(flat(10, 20, 30), columns=2)
    step = 8 * 5 + GAP
    assert (2 * MARGIN + 2 * step - GAP,) * 2 == paper.size
    at = [paper.getpixel((MARGIN + x * step + 1, MARGIN + y * step + 1)) for y, x in ((0, 0), (0, 1), (1, 0))]
    assert [(10,) * 3, (20,) * 3, (30,) * 3] == at
    assert min(paper.getpixel((MARGIN + step + 1, MARGIN + step + 1))) > 240
    assert min(paper.getpixel((1, 1))) > 240


def test_pixels_are_enlarged_without_blur():
    image = torch.tensor([[[0, 255], [255, 0]]], dtype=torch.uint8)[None]
    shown = np.asarray(grid(image, columns=1))[MARGIN : MARGIN + 40, MARGIN : MARGIN + 40, 0]
    assert np.array_equal(np.kron([[0, 255], [255, 0]], np.ones((20, 20))), shown)


@pytest.mark.parametrize(
    ("size", "columns", "expected"), [(8, 4, 40), (40, 4, 40), (256, 2, 256), (256, 16, 112), (3, 1, 42)]
)
def test_small_images_grow_and_wide_rows_shrink(size, columns, expected):
    paper = grid(flat(7, size=size).expand(columns, -1, -1, -1), columns=columns)
    assert 2 * MARGIN + columns * (expected + GAP) - GAP == paper.width


def test_colours_are_kept():
    image = torch.tensor([250, 120, 10], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert (250, 120, 10) == grid(image, columns=1).getpixel((MARGIN + 2, MARGIN + 2))


def test_labels_and_titles_take_room_and_ink():
    images = flat(200, 200)
    bare = grid(images, columns=1)
    named = grid(images, columns=1, rows=("even", "odd"))
    titled = grid(images, columns=1, title="teacher")
    assert 0 == ink(bare) < min(ink(named), ink(titled))
    assert bare.width < named.width
    assert bare.height < titled.height


def test_a_name_that_repeats_is_drawn_once():
    once, twice = (grid(flat(200, 200), columns=1, rows=rows) for rows in (("even", ""), ("even", "even")))
    assert ink(once) == ink(twice)


def test_long_labels_are_cut():
    short, long = (grid(flat(200), columns=1, rows=("w" * n,)) for n in (60, 6000))
    assert abs(short.width - long.width) < 10


def test_a_row_is_labelled_only_when_all_its_samples_have_one_condition():
    mixed = opened(sheet(Preview(images=flat(200, 200, 200, 200)), ("a", "b", "a", "b"), 2).data)
    pure = opened(sheet(Preview(images=flat(200, 200, 200, 200)), ("a", "a", "b", "b"), 2).data)
    assert 0 == ink(mixed) < ink(pure)


def test_a_sheet_is_about_square_unless_told():
    assert (
        opened(sheet(Preview(images=flat(*range(9)))).data).size
        == opened(sheet(Preview(images=flat(*range(9))), columns=3).data).size
    )


def test_panels_stand_side_by_side_with_the_same_rows():
    one = opened(beside({"teacher": Preview(images=flat(10, 20))}, ("a", "b"), 1).data)
    two = opened(
        beside(
            {"teacher": Preview(images=flat(10, 20)), "g": Preview(images=flat(30, 40))}, ("a", "b"), 1
        ).data
    )
    assert one.height == two.height
    right = two.width - MARGIN - 20
    assert (30, 30, 30) == two.convert("RGB").getpixel((right, two.height - MARGIN - 40 - 2 * GAP - 20))
    assert (40, 40, 40) == two.convert("RGB").getpixel((right, two.height - MARGIN - 20))


def test_rows_stand_one_below_the_other():
    picture = opened(
        below({"a": Preview(images=flat(10, 11)), "b": Preview(images=flat(20, 21))}, ()).data
    ).convert("RGB")
    right = picture.width - MARGIN - 20
    heights = (MARGIN + 20, MARGIN + 40 + GAP + 20)
    assert [(11,) * 3, (21,) * 3] == [picture.getpixel((right, y)) for y in heights]


def test_lines_become_text_with_their_conditions():
    lines = Preview(lines=("1 2", "3 4"))
    picture = sheet(lines, ("even", "odd"))
    assert (b"even  1 2\nodd   3 4\n", ".txt") == (picture.data, picture.suffix)
    expected = b"# teacher\neven  1 2\nodd   3 4\n\n# generator\neven  1 2\nodd   3 4\n"
    assert expected == beside({"teacher": lines, "generator": lines}, ("even", "odd"), 1).data


def test_lines_without_conditions_stand_alone():
    assert b"1 2\n3 4\n" == sheet(Preview(lines=("1 2", "3 4"))).data


def test_png_files_hold_the_exact_pixels():
    image = torch.randint(256, (3, 5, 7), dtype=torch.uint8)
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(opened(image_png(image))))
    assert (4, 4) == opened(png(Image.new("L", (4, 4)))).size


@pytest.mark.parametrize(
    "name", ["red\nblue", "red\r\nblue", "red\x85blue", "red\u2028blue", "red\u2029blue"]
)
def test_a_label_of_several_lines_is_one_line(name):
    image = Preview(images=flat(200))
    assert sheet(image, ["red blue"]).data == sheet(image, [name]).data
    assert "red blue  up" == sheet(Preview(lines=("up",)), [name]).data.decode().strip()


@pytest.mark.parametrize("name", ["\x1b[31m", "\ud800", "\x00", "x" * 10_000_000])
def test_no_label_ends_a_sheet(name):
    assert opened(sheet(Preview(images=flat(200)), [name]).data).width < 600
    assert len(sheet(Preview(lines=("up",)), [name]).data) < 600
