"""Protocol `y_border`: by hand, and the figures that the field publishes for bicubic."""

import numpy as np
import pytest

from srflow_jax import images, listing
from srflow_jax.evaluation import luma, metrics
from srflow_jax.ops.resize import bicubic_resize


@pytest.mark.parametrize(
  "colour, expected",
  [
    ((0, 0, 0), 16),
    ((255, 255, 255), 235),
    ((255, 0, 0), 81),
    ((0, 255, 0), 145),
    ((0, 0, 255), 41),
  ],
)
def test_luma_of_colours(colour, expected):
  assert (luma.luma(np.full((2, 3, 3), colour, np.uint8)) == expected).all()


def test_border_is_left_out_and_strips_change_nothing(monkeypatch):
  image, other = np.random.default_rng(0).integers(0, 256, (2, 60, 40, 3), dtype=np.uint8)
  psnr, ssim = luma.psnr_and_ssim(image, other, 4)
  framed = other.copy()
  framed[:4], framed[-4:], framed[:, :4], framed[:, -4:] = 255, 255, 255, 255
  assert luma.psnr_and_ssim(image, framed, 4) == (psnr, ssim)
  assert luma.psnr_and_ssim(image, other, 0)[0] != psnr
  assert luma.psnr_and_ssim(image, image, 4) == (np.inf, pytest.approx(1))
  smallest = luma.min_size(4)
  luma.psnr_and_ssim(image[:smallest, :smallest], other[:smallest, :smallest], 4)
  monkeypatch.setattr(metrics, "_STRIP", 9)
  assert luma.psnr_and_ssim(image, other, 4) == (psnr, pytest.approx(ssim, rel=1e-12))


@pytest.mark.parametrize(
  "name, lowest, highest, ssim", [("set5", 28.42, 28.43, 0.810), ("set14", 26.00, 26.09, 0.703)]
)
def test_bicubic_scores_as_published(shared, name, lowest, highest, ssim):
  """MATLAB's own LR files, enlarged by bicubic; HR is cropped to multiples of the scale."""
  scores = []
  for path in listing.list_images(shared / "benchmarks" / name / "HR"):
    hr = images.read_image(path)
    lr = images.read_image(shared / "benchmarks" / name / "LR_x4" / path.name)
    hr = hr[: lr.shape[0] * 4, : lr.shape[1] * 4]
    scores.append(luma.psnr_and_ssim(bicubic_resize(lr, 4), hr, 4))
  psnr, mean_ssim = np.mean(scores, axis=0)
  assert lowest - 0.005 <= psnr <= highest + 0.005
  assert mean_ssim == pytest.approx(ssim, abs=0.002)
