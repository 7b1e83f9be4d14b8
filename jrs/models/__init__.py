"""The assembled model and its teachers."""

from jrs.models import segvggt, teacher

__all__ = ['segvggt', 'teacher']
