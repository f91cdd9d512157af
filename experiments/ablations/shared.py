"""Codebooks, columns of tables and scales of papers that several ablations share."""

import vqvae_jax as vj
from experiments.ablations.settings import Setting
from experiments.sweep.metric_names import columns

SIZE = 512
FITTED = {"init": vj.inits.kmeans(10), "reset": vj.codebooks.underused(0.1)}

CIFAR = Setting("cifar10", 250_000, 128, 2e-4, test_images=10_000, width=256, depth=2)
OTHER = "CIFAR-10, width 256, batch 128, 250,000 steps of Adam at 2e-4"
IMAGENET = Setting(
    "imagenet_resized/64x64", 500_000, 256, 1e-4, test_images=50_000, width=128, depth=2
)

DRAWN = ("psnr", "used", "perplexity")
NUMBERS = columns(
    "psnr", "ssim", "used", "perplexity", "quantization_error", "ms_per_step", drawn=DRAWN
)
CODES = columns(
    "codes", "psnr", "ssim", "used", "perplexity", "bits_uniform", "bits_entropy", "ms_per_step",
    drawn=DRAWN,
)  # fmt: skip
ERRORS = columns(
    "psnr", "ssim", "used", "perplexity", "quantization_error", "quantization_share", "ms_per_step",
    drawn=DRAWN,
)  # fmt: skip
