"""Classes that know how good their mask is: a query says its class with the probability of its mask's overlap."""

from jrs_plugins.mask_quality import losses  # noqa: F401
