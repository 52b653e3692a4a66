"""Multi-token assisted decoding (MTAD) of language models in JAX, and what it is compared with.

A small draft model proposes several tokens, the large target model judges them in one call.

    import mtad_jax
    from mtad_jax import recipes

    pipe = mtad_jax.Pipeline.shipped()  # or Pipeline.load("target_folder", "draft_folder")
    rows = pipe(
        ["Once upon a time"],
        strategy=recipes.mmtad(depth=4, width=4, tau=0.5),
        warp=mtad_jax.Warp(temperature=1.0, top_p=0.9, top_k=10),
        max_new_tokens=8,
    )
    print(rows[0].text, rows[0].stats)

Text in, text out:
    Pipeline, Completion, Comparison (texts of several rules side by side)

Rules and sharpness:
    recipes (a function for each rule), Warp

Token ids in, arrays out, for models that are loaded already:
    generate, stream, DecodeResult, DecodeStats, Block, certificate, Certificate

Models, tokenizers and checkpoints:
    load, save, LoadedModel, load_tokenizer, Tokenizer, make_mesh

Models of your own (docs/own_model.md):
    adapters (`adapters.from_nnx`, `adapters.from_linen`: models of other libraries), CausalLM (the
    protocol), BoundLM (a model with its parameters), visible_slots (what a token sees), LinenLM

Rules of your own (docs/own_rule.md):
    DraftVerify (a drafter and a verifier), the protocols Drafter, Verifier and Strategy, DraftTree
    and Verdict (what they give), the drafters Chain, Beam and Tree; rules (all other parts)

`mtad_jax.testing` checks both; docs/stability.md says which names stay.

Which rule pays:
    calibrate, Calibration, Candidate

Rows of runs as a pandas frame, and pictures:
    records (`records.read`); `mtad_jax.plots` draws rounds (`Pipeline.explain`) and rules
"""

from mtad_jax import adapters, recipes, records, rules
from mtad_jax.calibration.calibrate import calibrate
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.calibration.report import Calibration
from mtad_jax.checkpoints.load import LoadedModel, load
from mtad_jax.checkpoints.save import save
from mtad_jax.comparison import Comparison
from mtad_jax.completions import Completion
from mtad_jax.decode.certificate import Certificate, certificate
from mtad_jax.decode.draft import DraftTree
from mtad_jax.decode.draft_verify import DraftVerify
from mtad_jax.decode.drafters.beam import Beam
from mtad_jax.decode.drafters.chain import Chain
from mtad_jax.decode.drafters.tree import Tree
from mtad_jax.decode.engine import generate, stream
from mtad_jax.decode.protocols import Drafter, Strategy, Verdict, Verifier
from mtad_jax.decode.result import Block, DecodeResult, DecodeStats
from mtad_jax.decode.warp import Warp
from mtad_jax.devices.platforms import leave_out_absent_tpu as _leave_out_absent_tpu
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.models.cache import visible_slots
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM, CausalLM
from mtad_jax.pipeline import Pipeline
from mtad_jax.text.tokenizer import Tokenizer, load_tokenizer

__version__ = "0.1.0"

__all__ = [
    "Beam",
    "Block",
    "BoundLM",
    "Calibration",
    "Candidate",
    "CausalLM",
    "Certificate",
    "Chain",
    "Comparison",
    "Completion",
    "DecodeResult",
    "DecodeStats",
    "DraftTree",
    "DraftVerify",
    "Drafter",
    "LinenLM",
    "LoadedModel",
    "Pipeline",
    "Strategy",
    "Tokenizer",
    "Tree",
    "Verdict",
    "Verifier",
    "Warp",
    "adapters",
    "calibrate",
    "certificate",
    "generate",
    "load",
    "load_tokenizer",
    "make_mesh",
    "recipes",
    "records",
    "rules",
    "save",
    "stream",
    "visible_slots",
]

_leave_out_absent_tpu()
