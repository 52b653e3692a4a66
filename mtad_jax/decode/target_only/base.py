"""What holds of the rules that decode with the target alone; see `Strategy`."""

from mtad_jax.decode.state import Controls, DecodeState


class TargetOnly:
    """A rule without a draft: nothing is drafted, nothing promised, and likely texts are sought."""

    depth = 0
    lookahead = 0
    needs_draft = False
    lossless = False
    bound = None

    def start(self, state: DecodeState, controls: Controls, vocab: int) -> DecodeState:
        """Nothing is carried between rounds but the state itself."""
        return state

    def finish(self, state: DecodeState) -> DecodeState:
        """All text is written already."""
        return state
