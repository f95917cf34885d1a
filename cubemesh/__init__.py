"""Run code nobody trusts in sandboxes."""
