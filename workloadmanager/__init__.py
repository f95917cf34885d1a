"""The one owner of sessions and their sandboxes."""
