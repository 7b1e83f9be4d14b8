"""The assembled model and its teachers."""

from jrs.models import correspondence, segvggt, teacher

__all__ = ['correspondence', 'segvggt', 'teacher']
