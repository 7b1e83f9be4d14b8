"""A term of the mask logits for each query and view: what a view shows decides, too, whether a query draws there."""

from jrs_plugins.view_term import features  # noqa: F401
