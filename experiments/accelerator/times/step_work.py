"""Operations of a train step, and what it is expected to take."""

from typing import NamedTuple

from experiments.accelerator import card
from experiments.accelerator.times.search_floors import LAUNCH
from experiments.bench.plain_flax import Sizes

# Convolutions of these sizes, with what lies between them, reach this share of the card's rate.
REACHED = 0.4
# A step of small pictures takes as long as starting its kernels, of which the program that XLA
# compiles for this card has about so many.
LAUNCHES = 300


class Convolution(NamedTuple):
    """Products of a convolution: one for each place, tap, input and output channel."""

    places: int
    taps: int
    inputs: int
    outputs: int

    @property
    def operations(self) -> int:
        """Multiplications and additions for one image."""
        return 2 * self.places * self.taps * self.inputs * self.outputs


def encoder(s: Sizes, halvings: int = 2) -> list[Convolution]:
    """Returns the convolutions of the encoder, in order."""
    grid, w = (s.side >> halvings) ** 2, s.width
    last = Convolution(grid, 1, w, s.dim)
    return [*strided(s, halvings), Convolution(grid, 9, w, w), *residual(s, grid), last]


def decoder(s: Sizes, halvings: int = 2) -> list[Convolution]:
    """Returns those of the decoder; transposed ones by places of the input."""
    grid = (s.side >> halvings) ** 2
    last = [c._replace(inputs=c.outputs, outputs=c.inputs) for c in strided(s, halvings)[::-1]]
    return [Convolution(grid, 9, s.dim, s.width), *residual(s, grid), *last]


def strided(s: Sizes, halvings: int) -> list[Convolution]:
    """Returns the convolutions that halve the sides."""
    channels = [s.channels, *[s.width // 2] * (halvings - 1), s.width]
    sides = [s.side >> (i + 1) for i in range(halvings)]
    return [Convolution(n * n, 16, *channels[i : i + 2]) for i, n in enumerate(sides)]


def residual(s: Sizes, grid: int) -> list[Convolution]:
    """Returns the convolutions of the residual blocks."""
    return [Convolution(grid, taps, s.width, s.width) for taps in (9, 1)] * s.depth


def operations(s: Sizes, halvings: int = 2) -> float:
    """Returns the operations of a step: convolutions forward and of two gradients, and the search.

    Adam, losses and what follows the search are left out: together less than a hundredth.
    """
    each = [c.operations for c in encoder(s, halvings) + decoder(s, halvings)]
    pixels = each[0]  # the pixels need no gradient
    search = 2 * (s.side >> halvings) ** 2 * s.codes * s.dim
    return float(s.batch * (3 * sum(each) - pixels + search))


def expected_seconds(s: Sizes, precision: str, halvings: int = 2) -> float:
    """Returns the time of a step on the card."""
    return seconds(operations(s, halvings), precision, LAUNCHES)


def seconds(operations: float, precision: str, launches: int) -> float:
    """Returns the time of convolutions, or of starting kernels if longer."""
    rate = REACHED * getattr(card.rates(), precision)
    return max(operations / rate, launches * LAUNCH)
