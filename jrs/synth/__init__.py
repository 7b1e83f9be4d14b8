"""Procedural furnished rooms, written as raw ScanNet scans."""

from jrs.synth.fingerprint import TOLERANCE, compare
from jrs.synth.generate import generate
from jrs.synth.mark import read_mark, write_mark
from jrs.synth.presets import DEPTHS, GENERATOR_VERSION, POSES, PRESETS, find_preset
from jrs.synth.styles import STYLES

__all__ = ['DEPTHS', 'GENERATOR_VERSION', 'POSES', 'PRESETS', 'STYLES', 'TOLERANCE', 'compare', 'find_preset', 'generate',
           'read_mark', 'write_mark']
