"""Procedural furnished rooms, written as raw ScanNet scans."""

from jrs.synth.generate import generate
from jrs.synth.presets import GENERATOR_VERSION, PRESETS

__all__ = ['GENERATOR_VERSION', 'PRESETS', 'generate']
