"""How every page of the package is made from its template."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def fill(template: str, /, **values: Any) -> str:
    """Returns a page as HTML: text is escaped, and a value that a template names and nobody gave is an error.

    Args:
        template: Name of a file in `taskloom/report/templates`.
        values: What the template names.

    Raises:
        jinja2.UndefinedError: A value is missing.
    """
    environment = Environment(
        loader=PackageLoader("taskloom.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
