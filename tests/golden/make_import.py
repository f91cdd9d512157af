r"""Make the files that `vqvae_jax.saving.import_torch` and `random_projection` are tested with.

Weights of small quantizers of vector-quantize-pytorch, trained for a few steps, and the codes that
it gives to some inputs. The environment is that of ``make.py``, with safetensors::

    peers/bin/pip install safetensors==0.8.0
    peers/bin/python tests/golden/make_import.py

Writes ``import_NAME.safetensors`` (and one as ``.npz``) with the state dict of each quantizer,
``import.npz`` with ``NAME/z [N, D]`` and ``NAME/indices [N, Q]``, and ``random_projection.npz``.
"""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from vector_quantize_pytorch import (
    FSQ,
    RandomProjectionQuantizer,
    ResidualVQ,
    SimVQ,
    VectorQuantize,
)

K, D, ROWS = 16, 4, 48
HERE = Path(__file__).parent
PEER = [f"{name} {version(name)}" for name in ("vector-quantize-pytorch", "torch")]
LEARNT = {"learnable_codebook": True, "ema_update": False}
SHARED = {"num_quantizers": 3, "shared_codebook": True}
QUANTIZERS = {
    "ema": lambda: VectorQuantize(dim=D, codebook_size=K, kmeans_init=True),
    "cosine": lambda: VectorQuantize(dim=D, codebook_size=K, use_cosine_sim=True),
    "learnable": lambda: VectorQuantize(dim=D, codebook_size=K, **LEARNT),
    "residual": lambda: ResidualVQ(dim=D, codebook_size=K, num_quantizers=3, kmeans_init=True),
    "residual_sizes": lambda: ResidualVQ(dim=D, codebook_size=(16, 8), use_cosine_sim=True),
    "residual_shared": lambda: ResidualVQ(dim=D, codebook_size=K, **SHARED),
    "simvq": lambda: SimVQ(dim=D, codebook_size=K),
    "fsq": lambda: FSQ(levels=[8, 5, 4, 3]),
    "fsq_symmetric": lambda: FSQ(levels=[8, 2, 4, 3], preserve_symmetry=True),
    "heads": lambda: VectorQuantize(
        dim=D, codebook_size=K, codebook_dim=2, heads=2, separate_codebook_per_head=True
    ),
}


def data(steps: int) -> torch.Tensor:
    """Clustered rows [steps, ROWS, D] in multiples of 1/64."""
    centres = torch.randn(K, D)
    rows = centres[torch.randint(K, (steps, ROWS))] + 0.3 * torch.randn(steps, ROWS, D)
    return (64 * rows).round() / 64


def train(module, batches: torch.Tensor) -> None:
    """A step of Adam for each batch, where there is anything to learn."""
    parameters = list(module.parameters())
    optimizer = torch.optim.Adam(parameters, 1e-2) if parameters else None
    for z in batches:
        quantized, _, *loss = module(z[None])
        if optimizer:
            optimizer.zero_grad()
            (torch.square(quantized - z).mean() + sum(each.sum() for each in loss)).backward()
            optimizer.step()


def import_files() -> None:
    arrays = {"peer": np.array(PEER)}
    for name, make in QUANTIZERS.items():
        torch.manual_seed(0)
        module, batches = make().train(), data(11)
        train(module, batches[:-1])
        z = batches[-1]
        with torch.no_grad():
            indices = module.eval()(z[None])[1][0].numpy()
        arrays[f"{name}/z"] = z.numpy()
        arrays[f"{name}/indices"] = indices.reshape(ROWS, -1).astype(np.int32)
        weights = {key: value.clone().contiguous() for key, value in module.state_dict().items()}
        save_file(weights, HERE / f"import_{name}.safetensors")
        if name == "ema":
            np.savez(HERE / "import_ema.npz", **{k: v.numpy() for k, v in weights.items()})
        shapes = {key: tuple(value.shape) for key, value in weights.items()}
        print(f"{name}: {len(np.unique(indices))} codes used; {shapes}")
    np.savez_compressed(HERE / "import.npz", **arrays)


def random_projection() -> None:
    torch.manual_seed(0)
    # With more codebooks this version puts a second random map, with a bias, behind the projection.
    module = RandomProjectionQuantizer(dim=10, codebook_size=24, codebook_dim=5, num_codebooks=1)
    module.eval()
    x = (64 * (3 + 2 * torch.randn(40, 10))).round() / 64
    np.savez_compressed(
        HERE / "random_projection.npz",
        peer=np.array(PEER),
        x=x.numpy(),
        projection=module.rand_projs.numpy(),
        codebook=module.vq.codebook.numpy(),
        indices=module(x[None])[0].numpy().reshape(40, 1).astype(np.int32),
    )


if __name__ == "__main__":
    import_files()
    random_projection()
