"""Features by Paddle's inference engine with oneDNN, for which PaddleMAE's own way was chosen (`tasks.inference`)."""

from __future__ import annotations

import tempfile

from benchmarks.ours import Options, feature_model, prepare, timed
from benchmarks.worker import NotAvailable
from benchmarks.works import CHANNELS, Job


def features(job: Job, options: Options) -> dict[str, object]:
    """The cls token of whole images, from uint8 images to a NumPy array; compiled before the clock starts."""
    started = prepare(job)
    import paddle
    from paddle import inference, nn

    from paddlemae.model.vit import features as features_of
    from paddlemae.tasks.models import normalised

    model, description = feature_model(job)
    model.eval()

    class Network(nn.Layer):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images_u8):
            return features_of(self.model, normalised(images_u8, description), "cls")

    shape = [-1, CHANNELS, job.shape["image_size"], job.shape["image_size"]]
    with tempfile.TemporaryDirectory(prefix="paddlemae-bench-") as folder, paddle.no_grad():
        paddle.jit.save(Network(), f"{folder}/m", input_spec=[paddle.static.InputSpec(shape, "uint8", "images")])
        config = inference.Config(f"{folder}/m.json", f"{folder}/m.pdiparams")
        config.disable_glog_info()
        config.enable_mkldnn()
        if not config.mkldnn_enabled():
            raise NotAvailable("this Paddle build has no oneDNN")
        config.set_cpu_math_library_num_threads(job.threads)
        engine = inference.create_predictor(config)
    forward = timed(job, lambda images_u8: engine.run([paddle.to_tensor(images_u8)])[0].numpy())
    return {**forward, "start_bytes": started}


TASKS = {"features": features}
