"""The exact checker misreads fewer than one image in a hundred."""

from __future__ import annotations

from diffusers import AutoencoderKL

from pipelines.pretrain.checker_error import error_rate, truth_scenes
from pipelines.pretrain.vae import decode, encode
from pipelines.scenes import checkpoints_dir


def test_the_error_rate_on_rendered_images_is_under_one_percent() -> None:
    measured = error_rate(*truth_scenes(1500, 3))
    print(f"checker, rendered: {measured.wrong} of {measured.images} images misread")
    assert measured.rate < 0.01


def test_the_error_rate_after_a_vae_round_trip_is_under_one_percent() -> None:
    vae = AutoencoderKL.from_pretrained(checkpoints_dir("flux") / "vae")
    placements, images = truth_scenes(1500, 12)
    measured = error_rate(placements, decode(vae, encode(vae, images)))
    print(f"checker, VAE round trip: {measured.wrong} of {measured.images} images misread")
    assert measured.rate < 0.01


def test_a_wrong_image_is_counted() -> None:
    placements, images = truth_scenes(8, 0)
    measured = error_rate(placements, images[::-1])
    assert (measured.images, measured.wrong) == (8, 8)
