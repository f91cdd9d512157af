"""The default model and its train step, written plainly in PyTorch. Needs torch."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import nn

from experiments.bench.plain_flax import Sizes


class Residual(nn.Module):
    """Residual blocks: x + conv1x1(relu(conv3x3(relu(x)))), `depth` times, then relu."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                nn.Conv2d(width, width, 1),
            )
            for _ in range(depth)
        )  # fmt: skip

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return F.relu(x)


class Model(nn.Module):
    """VQ-VAE with a codebook that follows moving averages; images [B, C, H, W]."""

    def __init__(self, s: Sizes):
        super().__init__()
        w = s.width
        self.encoder = nn.Sequential(
            nn.Conv2d(s.channels, w // 2, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(w // 2, w, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(w, w, 3, padding=1), Residual(w, s.depth), nn.Conv2d(w, s.dim, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(s.dim, w, 3, padding=1), Residual(w, s.depth),
            nn.ConvTranspose2d(w, w // 2, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(w // 2, s.channels, 4, 2, 1),
        )  # fmt: skip
        self.register_buffer("sums", torch.randn(s.codes, s.dim))
        self.register_buffer("counts", torch.ones(s.codes))

    def forward(self, x):
        z = self.encoder(x).permute(0, 2, 3, 1)
        z_q = self.lookup(z.detach().reshape(-1, z.shape[-1])).reshape(z.shape)
        commitment = 0.25 * F.mse_loss(z, z_q)
        z_q = z + (z_q - z).detach()
        return self.decoder(z_q.permute(0, 3, 1, 2)), commitment

    @torch.no_grad()
    def lookup(self, rows, decay: float = 0.99):
        """Returns e_k; moves the averages."""
        e = self.sums / self.counts[:, None]
        squares = rows.square().sum(1, keepdim=True), e.square().sum(1)
        k = (squares[0] - 2 * rows @ e.T + squares[1]).argmin(1)
        hot = F.one_hot(k, len(e)).to(rows.dtype)
        self.sums.mul_(decay).add_(hot.T @ rows, alpha=1 - decay)
        n = decay * self.counts + (1 - decay) * hot.sum(0)
        self.counts.copy_((n + 1e-5) / (n.sum() + len(e) * 1e-5) * n.sum())
        return e[k]


Forward = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def make(
    sizes: Sizes,
    prepare: Callable[[Model], Forward] = lambda model: model,
    device: str = "cpu",
    within: Callable[[], AbstractContextManager] = nullcontext,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns a function that takes one step of training, and returns the loss.

    Args:
        sizes: sizes of the model; the function takes images on the device, uint8 [B, H, W, C].
        prepare: makes the function that is trained of the model, such as `compiled`.
        device: device of PyTorch.
        within: context of the forward pass and the loss, such as `torch.autocast`.
    """
    torch.manual_seed(0)
    torch._inductor.config.force_disable_caches = True  # else compiling would look fast
    model = Model(sizes).to(device)
    forward = prepare(model)
    fused = device != "cpu" or None  # Adam in one kernel
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.9, 0.99), fused=fused)

    def step(pixels: torch.Tensor) -> torch.Tensor:
        images = pixels.permute(0, 3, 1, 2).float() / 255 - 0.5
        with within():
            y, commitment = forward(images)
            loss = F.mse_loss(y, images) + commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def compiled(model: Model) -> Forward:
    """The model by `torch.compile`, for batches of one shape."""
    return torch.compile(model, dynamic=False)


def channels_last(model: Model) -> Model:
    """The model with the layout that convolutions on tensor cores want."""
    return model.to(memory_format=torch.channels_last)
