"""Imports what every worker needs; itself imported by `serving.server.workers` before it forks them."""

import gc

import PIL.Image

import serving.app  # noqa: F401

PIL.Image.init()
gc.collect()
gc.freeze()  # the garbage collector would copy the shared pages into each worker by touching them
