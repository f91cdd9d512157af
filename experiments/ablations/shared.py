"""What several ablations have: codebooks, columns of tables, the scales of papers."""

import vqvae_jax as vj
from experiments.ablations.settings import Setting, columns

SIZE = 512
FITTED = {"init": vj.kmeans(10), "revive": vj.underused(0.1)}
CIFAR = Setting("cifar10", 250_000, 128, 2e-4, 256, 2, test_images=10_000)
OTHER = "CIFAR-10, width 256, batch 128, 250,000 steps of Adam at 2e-4"
NUMBERS = columns("psnr", "ssim", "used", "perplexity", "quantization_error", "ms_per_step")
CODES = columns(
    "codes", "psnr", "ssim", "used", "perplexity", "bits_uniform", "bits_entropy", "ms_per_step"
)
IMAGENET = Setting("imagenet_resized/64x64", 500_000, 256, 1e-4, 128, 2, test_images=50_000)
ERRORS = columns(
    "psnr", "ssim", "used", "perplexity", "quantization_error", "quantization_share", "ms_per_step"
)
