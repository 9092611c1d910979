"""Pictures for tests of what reads CIFAR-10."""

import io
import zipfile
from pathlib import Path


def grey_zip(path: Path) -> Path:
    """A zip as the benchmarks': train and test, ten classes of four 32x32 pictures, a grey of its own each."""
    import numpy as np
    from PIL import Image

    with zipfile.ZipFile(path, "w") as archive:
        for split in ("train", "test"):
            for name in (f"{split}/{c}/{i}.jpg" for c in range(10) for i in range(4)):
                packed = io.BytesIO()
                grey = np.full((32, 32, 3), 25 * int(name.split("/")[1]), np.uint8)
                Image.fromarray(grey).save(packed, "JPEG")
                archive.writestr(name, packed.getvalue())
    return path
