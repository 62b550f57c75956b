"""Which LR image belongs to which HR image."""

import pytest

from srflow_jax.data.archives import lr_images
from srflow_jax.data.names import match_names, own_side
from srflow_jax.errors import InputError
from srflow_jax.images import write_png
from test_images import gradient


def named(names):
  return [(name, f"{name}.png") for name in names.split()]


@pytest.mark.parametrize(
  "hr, lr",
  [
    ("1 2", "1 2"),
    ("1 2", "1x4 2x4"),
    ("1 2", "1_x4 2_x4"),
    ("1 2", "1_LR 2_LR"),
    ("1 2", "1_LRBI_x4 2_LRBI_x4"),
    ("1_HR_x4 2_HR_x4", "1_LRBI_x4 2_LRBI_x4"),
    ("1_HR 2_HR", "1_LR 2_LR"),
    ("1_HR 2_HR", "1x4 2x4"),
    ("img_1_SRF_4_HR img_2_SRF_4_HR", "img_1_SRF_4_LR img_2_SRF_4_LR"),
    ("fox4", "fox4"),
    ("fox4", "fox4x4"),
    ("fo fox4", "fo fox4"),
    ("fo fox4", "fox4 fox4x4"),
    ("a/1 b/1", "a/1x4 b/1x4"),
    ("1 2", "1 2x4"),
    ("1 2_HR", "1x4 2_LR"),
  ],
)
def test_pairs_of_published_names(hr, lr):
  assert match_names(named(hr), named(lr)[::-1], 4) == [f"{name}.png" for name in lr.split()]


LOOKED_FOR = "1, 1x4, 1_x4, 1_LR, 1_LR_x4, 1_LRx4, 1_LRBI_x4, 1_SRF_4_LR"


@pytest.mark.parametrize(
  "hr, lr, line",
  [
    ("1", "2", f"1.png: no LR image of that name; looked for {LOOKED_FOR}"),
    ("1", "1x3", f"1.png: no LR image of that name; looked for {LOOKED_FOR}"),
    ("1", "1 1x4", "1.png: two LR images could be its own, 1.png and 1x4.png"),
    ("1", "1x4 1_LR", "1.png: two LR images could be its own, 1x4.png and 1_LR.png"),
    ("1", "1 2", "2.png: no HR image of that name"),
    ("1 1_HR", "1_LR", "1_LR.png: two HR images of that name"),
    ("1 2", "1x4", "2.png: no LR image of that name; looked for 2, 2x4, 2_x4, 2_LR, "),
  ],
)
def test_names_that_do_not_match(hr, lr, line):
  with pytest.raises(InputError) as caught:
    match_names(named(hr), named(lr), 4)
  assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
  "names, hr, lr",
  [
    ("1_HR 1_LR", "1_HR", "1_LR"),
    ("i_SRF_4_HR i_SRF_4_LR i_SRF_4_bicubic", "i_SRF_4_HR", "i_SRF_4_LR"),
    ("1 2", "1 2", "1 2"),
    ("1_HR 2", "1_HR 2", "1_HR 2"),
  ],
)
def test_sides_of_a_folder_that_holds_both(names, hr, lr):
  assert own_side(named(names), 4, "HR") == named(hr)
  assert own_side(named(names), 4, "LR") == named(lr)


@pytest.mark.parametrize(
  "names, taken",
  [
    ("1x2 1x4 2x2 2x4", "1x4 2x4"),
    ("fox4 1", "1 fox4"),
    ("fox4", "fox4"),
    ("X2/1 X4/1", "1"),
    ("X2/1x2 X4/1x4", "1x4"),
  ],
)
def test_images_of_a_scale_by_folder_or_name(tmp_path, names, taken):
  for name in names.split():
    write_png(tmp_path / f"{name}.png", gradient())
  assert list(lr_images([str(tmp_path)], [4])[4]) == taken.split()
