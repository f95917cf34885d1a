"""The page of flags says what the services read, all of it and no more."""

from __future__ import annotations

from tests.flags_page import PAGE, SERVICES, options, page


def test_the_page_is_fresh() -> None:
    """A flag that is new, gone or changed is so on the page, too."""
    assert PAGE.read_text() == page(), "docs/reference/flags.md is stale: make flags"


def test_every_flag_of_every_service_is_on_the_page() -> None:
    """None is left out by the way in which the page is made."""
    text = PAGE.read_text()
    for prog, settings in SERVICES.items():
        for option in options(settings, prog):
            assert f"`{'/'.join((*option.opts, *option.secondary_opts))}`" in text
