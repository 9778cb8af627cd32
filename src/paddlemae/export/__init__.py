"""Models for use without PaddleMAE: as ONNX files and as programs of Paddle's inference engine."""
