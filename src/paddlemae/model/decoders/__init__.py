"""The decoders, by name; `shape.DECODER_KINDS` has what is known of each before it is built."""

from paddlemae.model.decoders.cross import CrossDecoder
from paddlemae.model.decoders.mae import MaeDecoder

DECODERS = {"mae": MaeDecoder, "cross": CrossDecoder}
