"""What holds of the rules that follow the target's own beams; see `Strategy`."""

from mtad_jax.decode.state import Controls, DecodeState


class TargetBeams:
    """Likely texts are sought; nothing that is drafted counts, and no ratio is promised."""

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
