"""Multi-token assisted decoding for JAX: faster and better text from large language models."""

from mtad_jax import recipes
from mtad_jax.calibration.calibrate import calibrate
from mtad_jax.calibration.candidates import Candidate
from mtad_jax.calibration.report import Calibration
from mtad_jax.checkpoints.load import LoadedModel, load
from mtad_jax.checkpoints.save import save
from mtad_jax.completions import Completion
from mtad_jax.decode.certificate import Certificate, certificate
from mtad_jax.decode.generate import generate, stream
from mtad_jax.decode.result import Block, DecodeResult, DecodeStats
from mtad_jax.decode.warp import Warp
from mtad_jax.devices.platforms import leave_out_absent_tpu as _leave_out_absent_tpu
from mtad_jax.devices.sharding import make_mesh
from mtad_jax.models.linen import LinenLM
from mtad_jax.models.protocol import BoundLM, CausalLM
from mtad_jax.pipeline import Pipeline
from mtad_jax.text.tokenizer import Tokenizer, load_tokenizer

__version__ = "0.1.0"

__all__ = [
    "Block",
    "BoundLM",
    "CausalLM",
    "Calibration",
    "Candidate",
    "Certificate",
    "Completion",
    "DecodeResult",
    "DecodeStats",
    "LinenLM",
    "LoadedModel",
    "Pipeline",
    "Tokenizer",
    "Warp",
    "calibrate",
    "certificate",
    "generate",
    "load",
    "load_tokenizer",
    "make_mesh",
    "recipes",
    "save",
    "stream",
]

_leave_out_absent_tpu()
