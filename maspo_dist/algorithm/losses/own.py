"""The contract of a loss of your own."""

from __future__ import annotations

from typing import ClassVar, Protocol

from maspo_dist.algorithm.losses.terms import TokenLoss, TokenTerms


class OwnLoss(Protocol):
    """A loss of your own: a class that derives from `maspo_dist.config.LossConfig` and has `token_loss`.

        # my_module.py, importable on every node
        class MyLoss(LossConfig):
            tau: float = Field(1.0, gt=0)    # a parameter
            is_separable = True

            def token_loss(self, terms: TokenTerms) -> TokenLoss:
                gate = 1 / (1 + ((terms.ratio.detach() - 1) / self.tau) ** 2)
                return TokenLoss(values=-terms.advantages * gate * terms.ratio, gate=gate)

        # the configuration
        algorithm: {loss: {kind: "python:my_module:MyLoss", tau: 2.0}}

    Fields are the keys of the section: typed, checked like every other key, saved with the run, compared at a resume.
    Every process imports the class by its name, so it must not be defined in a script or a function.

    is_separable       whether value and gradient of a token depend on no other token. The head then computes its
                       gradients in the forward pass, which saves one of four matrix products with its weight.
    has_trust_region   whether the loss limits how far the ratio moves from 1. Settings that keep every ratio at 1
                       are then refused, as for the losses of this package.

    `check_loss` checks this contract before a run starts.
    """

    is_separable: ClassVar[bool]
    has_trust_region: ClassVar[bool]

    def token_loss(self, terms: TokenTerms) -> TokenLoss:
        """Loss and gate of each token, in the dtype of `terms` (float32 in training), each [N]; N may be 0.

        `values` is minimised. It must be differentiable in `terms.logprobs` (`terms.ratio` is computed from it) and
        finite, with a finite gradient, for any finite input. `gate` as in `TokenLoss`: in [0, 1], without gradient,
        and 1 where the ratio is 1.
        """
        ...
