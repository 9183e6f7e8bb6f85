"""What every worker needs. Imported by `serving.server.workers` before it forks them, and nowhere else."""

import gc

import PIL.Image

import serving.app  # noqa: F401

PIL.Image.init()
gc.collect()
gc.freeze()  # a collector that touches what is shared would copy it into each worker
