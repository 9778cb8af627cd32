"""Records the golden loss curves: python -m tests.goldens.record_losses

Run it only when a change of the numbers is intended, and say in the commit what changed them.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.loss_curves import CURVES, curve, processor

if __name__ == "__main__":
    os.environ["PADDLEMAE_PRODUCTS"] = "paddle"
    with TemporaryDirectory() as folder:
        curves = {name: curve(name, Path(folder, name)) for name in CURVES}
    content = {"processor": processor(), "losses": curves}
    Path(__file__).with_name("losses.json").write_text(json.dumps(content, indent=1) + "\n")
