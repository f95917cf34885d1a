"""``python -m serving.doctor``: whether our identity is well, and a server takes it.

What `cubemesh doctor certificates` starts. Each finding is one `Check`; what to do
about a reason stands in ``refusals.md``, the page for people.
"""
