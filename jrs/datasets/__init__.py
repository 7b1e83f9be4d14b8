"""Scene folders and how they become batches; importing registers data set, samplers and transforms."""

from jrs.datasets import dataset, mixture, sampling, transforms

__all__ = ['dataset', 'mixture', 'sampling', 'transforms']
