"""The quantizer that the options of a training name: by name, by the text of a call, or by a file.

--quantizer ema_vq --codes 512                  a name of the table, with its options
--quantizer residual --stages 3 --codes 256
--quantizer "project(lfq(12), dim=32)"          any call, with the names of vqvae_jax
--quantizer FILE.json                           a description, as `vj.to_json` writes it
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import vqvae_jax as vj
from vqvae_jax import Quantizer
from vqvae_jax.saving.as_text import from_text

SIZES = ("codes", "dim")
TRAINED = (*SIZES, "beta", "reset")
AVERAGED = (*TRAINED, "decay")


class Choice(NamedTuple):
    """A quantizer that has a name on the command line.

    Attributes:
        make: `(config, K) -> quantizer`.
        options: the options that it depends on.
        about: what it is, in a line.
    """

    make: Callable[[Any, int], Quantizer]
    options: tuple[str, ...]
    about: str


def fitted(config) -> dict[str, Any]:
    """Returns k-means as the start of codes, and the reset of unused ones."""
    reset = vj.codebooks.underused(config.reset) if config.reset else None
    return {"init": vj.inits.kmeans(10), "reset": reset}


def codebook(factory: Callable[..., Quantizer], **settings: Any) -> Callable[[Any, int], Quantizer]:
    """Returns the `make` of a quantizer of K codes with a commitment term, and these settings."""
    return lambda config, size: factory(size, config.dim, beta=config.beta, **settings)


def trained(factory: Callable[..., Quantizer], **settings: Any) -> Callable[[Any, int], Quantizer]:
    """Returns the `make` of one that starts from k-means too, and resets unused codes."""
    return lambda config, size: factory(
        size, config.dim, beta=config.beta, **fitted(config), **settings
    )


def averaged(factory: Callable[..., Quantizer]) -> Callable[[Any, int], Quantizer]:
    """Returns the `make` of one whose codes follow moving averages."""
    return lambda config, size: trained(factory, decay=config.decay)(config, size)


def levels_of(config) -> tuple[int, ...]:
    """Returns the levels of scalar quantizers; by default those of the paper of FSQ for 1,000."""
    return (8, 5, 5, 5) if config.levels is None else config.levels


def number_of(given: int | None, default: int) -> int:
    """Returns the number that is given, or the default; 0 is for the factory to refuse."""
    return default if given is None else given


def bits_of(config) -> int:
    """Returns the number of signs; by default 9, for 512 codes."""
    return number_of(config.bits, 9)


def stages(config, size: int) -> Quantizer:
    """Returns a residual stack of EMA codebooks."""
    return vj.repeat(averaged(vj.ema_vq)(config, size), number_of(config.stages, 4))


def parts(config, size: int) -> Quantizer:
    """Returns a product of EMA codebooks, each for its own slice of the channels."""
    n = number_of(config.stages, 4)
    if n < 1 or config.dim % n:
        raise ValueError(f"grouped needs a dim that {n} stages divide, got {config.dim}")
    one = averaged(vj.ema_vq)(dataclasses.replace(config, dim=config.dim // n), size)
    return vj.grouped(*[one] * n)


# Settings other than defaults are those of `experiments.compare quantizers`, found by trial there.
CHOICES = {
    "ema_vq": Choice(averaged(vj.ema_vq), AVERAGED, "codebook of moving averages"),
    "vq": Choice(trained(vj.vq), TRAINED, "codebook that the gradient moves"),
    "cosine_vq": Choice(trained(vj.cosine_vq), TRAINED, "codes and inputs of length 1"),
    "cosine_ema_vq": Choice(averaged(vj.cosine_ema_vq), AVERAGED, "the same, of moving averages"),
    "affine_vq": Choice(trained(vj.affine_vq), TRAINED, "codes with a shared shift and scale"),
    "simvq": Choice(
        codebook(vj.simvq, init=vj.inits.normal(0.05)),
        (*SIZES, "beta"),
        "fixed codes under a learnt linear map",
    ),
    "stochastic_vq": Choice(
        trained(vj.stochastic_vq, temperature=0.05), TRAINED, "codes drawn by their distance"
    ),
    "sinkhorn_vq": Choice(
        codebook(vj.sinkhorn_vq, init=vj.inits.kmeans(10)),
        (*SIZES, "beta"),
        "codes that each batch uses evenly",
    ),
    "gumbel_vq": Choice(
        lambda config, size: vj.gumbel_vq(size, config.dim, init=vj.inits.normal(0.1)),
        SIZES,
        "Gumbel-softmax over the codes",
    ),
    "nsvq": Choice(
        lambda config, size: vj.nsvq(size, config.dim, **fitted(config)),
        (*SIZES, "reset"),
        "noise in place of the quantization error",
    ),
    "diveq": Choice(
        lambda config, size: vj.diveq(size, config.dim, **fitted(config)),
        (*SIZES, "reset"),
        "noise along the quantization error",
    ),
    "sqvae": Choice(
        lambda config, size: vj.sqvae(
            size, config.dim, init=vj.inits.normal(0.1), variance=0.1, weight=0.01
        ),
        SIZES,
        "codes drawn from a learnt posterior",
    ),
    "fsq": Choice(lambda config, size: vj.fsq(levels_of(config)), ("levels",), "rounded scalars"),
    "fsp": Choice(
        lambda config, size: vj.fsp(levels_of(config)), ("levels",), "scalars of equal mass"
    ),
    "latent_vq": Choice(
        lambda config, size: vj.latent_vq(levels_of(config)), ("levels",), "learnt scalars"
    ),
    "lfq": Choice(
        lambda config, size: vj.lfq(
            number_of(config.bits, 9), entropy=0.003, temperature=4.0, beta=0.01
        ),
        ("bits",),
        "signs (MAGVIT-v2)",
    ),
    "bsq": Choice(lambda config, size: vj.bsq(bits_of(config)), ("bits",), "signs on a sphere"),
    "residual": Choice(
        stages, (*AVERAGED, "stages"), "stack of ema_vq, each of what the one before left"
    ),
    "grouped": Choice(parts, (*AVERAGED, "stages"), "product of ema_vq, each of its own channels"),
}
OPTIONAL = ("levels", "bits", "stages")
"""Options that are None unless given, so that one that has no effect is noticed."""


def make_quantizer(config, size: int) -> Quantizer:
    """Returns the quantizer of the options, with this many codes where they are to choose.

    Raises:
        ValueError: an unknown name, a faulty text or file, or an option that has no effect.
    """
    text = config.quantizer
    choice = CHOICES.get(text)
    check_effect(config, choice)
    if choice:
        try:
            return choice.make(config, size)
        except ValueError as error:
            raise ValueError(f"--quantizer {text}: {error}") from error
    made = described(text)
    if not isinstance(made, Quantizer):
        raise ValueError(f"--quantizer: expected a quantizer, found {type(made).__name__}: {text}")
    return made


def check_effect(config, choice: Choice | None) -> None:
    """Raises a ValueError if an option was changed that the quantizer does not depend on."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in sorted({option for c in CHOICES.values() for option in c.options}):
        # Levels of codes have as many sizes, whatever makes their codes.
        counts = name == "codes" and config.model == "vqvae2"
        if name in (choice.options if choice else ()) or counts:
            continue
        if getattr(config, name) != defaults[name]:
            raise ValueError(f"--{name} has no effect on --quantizer {config.quantizer}")


def described(text: str) -> Any:
    """Builds what a file describes, or the text of a call."""
    if text.endswith(".json"):
        try:
            return vj.from_json(Path(text).read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"--quantizer {text}: {error}") from error
    if "(" not in text:
        names = ", ".join(CHOICES)
        raise ValueError(
            f"--quantizer: expected one of {names}, a call such as 'lfq(12)', or a .json file, "
            f"found {text!r}"
        )
    try:
        return from_text(text)
    except ValueError as error:
        raise ValueError(f"--quantizer: {error}") from error


def help_text() -> str:
    """Returns the table of names for the help, with the options that only some of them take."""
    lines = []
    for name, choice in CHOICES.items():
        own = [f"--{option}" for option in choice.options if option in OPTIONAL]
        lines.append(f"{name}: {choice.about}{f' ({own[0]})' if own else ''}")
    head = (
        "Quantizer: a name of this list; or a call of any quantizers and nestings of vqvae_jax, "
        "such as 'project(fsq([8, 8, 8]), dim=64)'; or a .json file that vj.to_json wrote."
    )
    return "\n".join([head, *lines])
