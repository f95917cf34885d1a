"""Who may call what: policy over proven peers, and session tokens."""
