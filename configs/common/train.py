"""The entry `train` with its defaults; `mvit_det/config/schema.py` describes each field."""

from dataclasses import asdict

from mvit_det.config.schema import Train

train = asdict(Train())
